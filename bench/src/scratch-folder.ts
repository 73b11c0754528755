/**
 * Folders for what benchmarks write, removed afterwards.
 *
 * Guarantees that they lie on a disk: figures of durable writes into memory would flatter.
 */
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The magic number of tmpfs, of statfs(2). */
const TMPFS = 0x0102_1994;

/** The checkout. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** A folder of one run. */
export class ScratchFolder {
  readonly path: string;

  /** In `parent`, else in the system's folder for temporary files, else (where that is in memory) in the checkout. */
  constructor(parent?: string) {
    const chosen = parent ?? (isInMemory(tmpdir()) ? join(ROOT, '.setup') : tmpdir());
    mkdirSync(chosen, { recursive: true });
    this.path = mkdtempSync(join(chosen, 'cm-bench-'));
  }

  /** An empty folder in it, for this user alone. */
  part(name: string): string {
    const path = join(this.path, name);
    mkdirSync(path, { mode: 0o700 });
    return path;
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

function isInMemory(folder: string): boolean {
  return process.platform === 'linux' && statfsSync(folder).type === TMPFS;
}
