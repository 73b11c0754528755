/**
 * Files that are either the old or the new one, whatever happens in between, and that only this user can read.
 *
 * Guarantees: when `writePrivateFile` resolves, content and name are durable (fsync of file and directory); a crash leaves the old
 * file, and perhaps a `.tmp` beside it that the next write replaces. Does not guard against two writers of one name at once.
 */
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode, errorText, Fault } from './fault.ts';

/**
 * Writes the file with mode 0600. Faults: `file-full` (later may help), `file-write-failed` (the old content stays).
 */
export async function writePrivateFile(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  try {
    await rm(temporary, { force: true });
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    const directory = await open(dirname(path), 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  } catch (error) {
    const full = errorCode(error) === 'ENOSPC' || errorCode(error) === 'EDQUOT';
    throw new Fault(full ? 'file-full' : 'file-write-failed', `${path} could not be written: ${errorText(error)}`, {
      retry: full ? 'later' : 'never',
      cause: error,
    });
  }
}
