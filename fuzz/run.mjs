// Starts the fuzzer in this process: its TypeScript is read as it stands; what it drives is bundled from the sources.
import { register } from 'tsx/esm/api';

register();
await import('./src/main.ts');
