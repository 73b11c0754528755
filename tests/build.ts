/**
 * Before the tests of real processes: builds what is due, so that they run what the sources say, however they were started.
 *
 * Throws where the build fails; what failed stands on stderr. Does nothing more than look where all is built.
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

export default function build(): void {
  execFileSync(process.execPath, [join(import.meta.dirname, '..', 'start.mjs'), 'build'], { stdio: 'inherit' });
}
