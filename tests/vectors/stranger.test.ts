/** A stranger, in another language and from the pages alone, comes to the same judgement of every vector it can judge. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const has = (command: string, ...args: string[]): boolean => spawnSync(command, args).status === 0;
const missing = ['python3', 'openssl'].filter(
  (command) => !has(command, command === 'openssl' ? 'version' : '--version'),
);

describe.skipIf(missing.length > 0)(
  `A stranger's verifier${missing.length > 0 ? ` (missing: ${missing.join(', ')})` : ''}`,
  () => {
    it('judges the vectors as we do', () => {
      const root = join(import.meta.dirname, '..', '..');
      const run = spawnSync(
        'python3',
        [join(import.meta.dirname, 'stranger.py'), '--vectors', join(root, 'docs/protocol/vectors')],
        { encoding: 'utf8' },
      );
      const lines = run.stdout.trim().split('\n');
      expect(lines.filter((line) => line.startsWith('DIFFERENT'))).toEqual([]);
      expect(lines.filter((line) => line.endsWith(': accepted')).length).toBeGreaterThan(15);
      expect(lines.filter((line) => line.includes(': refused')).length).toBeGreaterThan(40);
      expect(run.stderr).toBe('');
      expect(run.status).toBe(0);
    });
  },
);
