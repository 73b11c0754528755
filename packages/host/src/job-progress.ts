/**
 * How far a job is: its run in hand, and pieces franked and not.
 *
 * Guarantees: told from the journal alone, so the same before and after a restart.
 */
import type { Journal } from './journal.ts';
import type { RunRow } from './journal-rows.ts';

/** The run of the job that is being franked, or waits to be gone on with. */
export function activeRun(journal: Journal, job: string): RunRow | undefined {
  return journal.runs.ofJob(job).find(({ state }) => state === 'active');
}

/** Pieces of the job that were franked, in all its runs. */
export function piecesFranked(journal: Journal, job: string): number {
  return journal.batches.ofJob(job).reduce((sum, { franked }) => sum + franked, 0);
}

/** Pieces of the job's active run that are not franked. */
export function piecesRemaining(journal: Journal, job: string): number {
  const run = activeRun(journal, job);
  if (run === undefined) return 0;
  return journal.batches.ofRun(run.run).reduce((sum, { expected, franked }) => sum + expected - franked, 0);
}
