/** The checkout's folder, from the sources and from the bundle alike: both lie two folders below it. */
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '..', '..');
