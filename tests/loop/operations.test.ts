/** docs/operations.md does what it says: its commands, in order, as a newcomer types them. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { softHsm } from '../../bench/src/soft-hsm.ts';
import { root } from '../installation.ts';

const hsm = softHsm('unused');
const skipped = typeof hsm === 'string' || spawnSync('pkcs11-tool', ['--version']).error !== undefined;
if (skipped) process.stderr.write('SKIPPED: docs/operations.md needs softhsm2 and opensc\n');
const folder = mkdtempSync(join(tmpdir(), 'operations-'));
afterAll(() => {
  if (typeof hsm !== 'string') hsm.stop();
  rmSync(folder, { recursive: true, force: true });
});

test.skipIf(skipped)('a newcomer comes from an empty token to a device that franks', () => {
  const page = readFileSync(join(root, 'docs', 'operations.md'), 'utf8');
  const commands = [...page.matchAll(/```bash\n([\s\S]*?)```/g)].map(([, block]) => block ?? '');
  expect(commands.length).toBeGreaterThan(3);
  const environment = {
    ...process.env,
    DATA: join(folder, 'data'),
    TOKENS: join(folder, 'tokens'),
    MODULE: typeof hsm === 'string' ? '' : hsm.of('unused').module,
  };
  const ran = spawnSync('bash', ['-euo', 'pipefail', '-c', commands.join('\n')], {
    cwd: root,
    env: environment,
    encoding: 'utf8',
    timeout: 500_000,
  });
  const said = `${ran.stdout}\n${ran.stderr}`;
  expect(ran.status, said).toBe(0);
  expect(said).not.toContain('UNSAFE_SERVER_KEYS');
  expect(said).toContain('UNSAFE_PSD_KEYS');
  // Listed twice: after the first start, and after the rotation of five keys, of which that of agreement stays beside the next.
  const uses = ['agreement', 'attesting', 'confirming', 'funds', 'issuing', 'policy', 'session-authority'];
  const rotated = new Set(['attesting', 'confirming', 'issuing', 'session-authority']);
  expect([...ran.stdout.matchAll(/label:\s+(countermark-\S+)/g)].map(([, label]) => label).sort()).toEqual(
    [
      ...uses.flatMap((use) => [`countermark-${use}-1`, `countermark-${use}-${rotated.has(use) ? 2 : 1}`]),
      'countermark-agreement-2',
    ].sort(),
  );
});
