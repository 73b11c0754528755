/**
 * The child that runs seeds: each message is a `Replay`, each answer what came of it.
 *
 * Guarantees one world at a time. Bundled by `build.mjs` and started by `run.mjs`; it prints nothing.
 */
import { REACHABLE_CODES } from './rejection-codes.ts';
import { FAULT_KINDS, type Outcome, type Replay, runSeed } from './scenario.ts';

/** What is asked. `whole`: the whole trace is wanted. */
export type Asked = { readonly replay: Replay; readonly whole: boolean };

process.on('message', (asked: Asked) => {
  void runSeed(asked.replay, { wholeTrace: asked.whole }).then((outcome) => {
    process.send?.(told(outcome));
  });
});
process.send?.({ faultKinds: FAULT_KINDS, codes: REACHABLE_CODES });

/** An outcome as it goes between processes. */
function told(outcome: Outcome): object {
  return { ...outcome, counts: [...outcome.counts], trace: outcome.trace };
}
