// Starts the long runs of the crash tests in this process: their TypeScript is read as it stands, the packages as they are built.
import { register } from 'tsx/esm/api';

register();
await import('./main.ts');
