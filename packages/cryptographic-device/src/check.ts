/**
 * `check`: whether keys and register are there and belong together, every certificate and funds grant is the one that it is stored as, and
 * the session authority's lead from its first key to the one in use.
 *
 * Changes nothing, and makes no keys or register where there are none.
 */
import { existsSync } from 'node:fs';
import { systemClock } from '@countermark/node-platform/clock';
import type { Examination } from '@countermark/node-platform/examination';
import { accept, type Result } from '@countermark/protocol/result';
import { registerPath } from './device-register.ts';
import { type Config, keysFolder, openDevice } from './service.ts';
import { sessionAuthorityProblems } from './session-authority.ts';

/** What is wrong, in words. Rejections: those of `openDevice`. */
export async function checkCryptographicDevice(
  config: Config,
  examination: Examination,
): Promise<Result<readonly string[]>> {
  const stores = [registerPath(config.data), ...(config.hsm === undefined ? [keysFolder(config.data)] : [])];
  for (const path of stores) {
    if (!existsSync(path)) examination.problem(`There is no ${path}.`);
  }
  if (examination.problems.length > 0) return accept(examination.problems);
  const opened = await openDevice(config, systemClock);
  if (!opened.ok) return opened;
  const { keys, roleKeys, register } = opened.value;
  register.examine(examination);
  for (const problem of sessionAuthorityProblems({ keys, roleKeys, register })) examination.problem(problem);
  register.close();
  await keys.close();
  return accept(examination.problems);
}
