/**
 * Followers: what derives from the log, or comes from the authority, in units of work of its own.
 *
 * Guarantees: one step at a time; a step that fails is tried again with growing waits and loses nothing, because its cursor
 * moves only with its work; steps give way to acceptance, but never for longer than {@link YIELD_MS}.
 */
import { Backoff } from '@countermark/node-platform/backoff';
import type { Clock } from '@countermark/node-platform/clock';
import { errorText } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import type { SqlDatabase } from '@countermark/sql/database';
import type { LedgerTransaction } from './ledger.ts';
import type { ServerTables } from './tables.ts';

/** The log's cursor up to which the authority has evaluated, all grants of that being booked. */
export const EVALUATED_FOLLOWER = 'evaluated';

/** How long a follower lets acceptance go first. */
const YIELD_MS = 250;
const FIRST_RETRY_MS = 250;
const MOST_RETRY_MS = 30_000;

export type FollowerOptions = {
  readonly name: string;
  /** `more`: there may be more to do at once; `idle`: nothing until something happens; `waiting`: ask again soon. */
  readonly step: () => Promise<'more' | 'idle' | 'waiting'>;
  /** How long to rest when idle, and when waiting, unless woken. */
  readonly idleMs: number;
  readonly waitingMs: number;
  /** Resolves when nothing more urgent is being done. */
  readonly giveWay: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

/** A running follower. */
export type Follower = { wake(): void; stop(): Promise<void> };

/** Starts following. */
export function follow(options: FollowerOptions): Follower {
  const { clock, log, name } = options;
  const stopped = new AbortController();
  const backoff = new Backoff({ firstMs: FIRST_RETRY_MS, mostMs: MOST_RETRY_MS, random: Math.random });
  let resting: AbortController | undefined;
  let woken = false;
  const rest = async (ms: number, wakeable: boolean): Promise<void> => {
    if (wakeable && woken) return;
    const pause = new AbortController();
    if (wakeable) resting = pause;
    await clock.sleep(ms, AbortSignal.any([pause.signal, stopped.signal]));
    resting = undefined;
  };
  const ended = (): boolean => stopped.signal.aborted;
  const run = async (): Promise<void> => {
    while (!ended()) {
      const way = new AbortController();
      await Promise.race([options.giveWay(), clock.sleep(YIELD_MS, AbortSignal.any([way.signal, stopped.signal]))]);
      way.abort();
      if (ended()) return;
      woken = false;
      try {
        const outcome = await options.step();
        backoff.reset();
        if (outcome === 'idle') await rest(options.idleMs, true);
        else if (outcome === 'waiting') await rest(options.waitingMs, true);
      } catch (error) {
        const delayMs = backoff.nextMs();
        log.warn('A follower failed and will go on', { operation: name, delayMs, reason: errorText(error) });
        await rest(delayMs, false);
      }
    }
  };
  const done = run();
  return {
    wake: () => {
      woken = true;
      resting?.abort();
    },
    stop: async () => {
      stopped.abort();
      await done;
    },
  };
}

/** How far a follower has come, 0 before its first step. */
export async function followerCursor(database: SqlDatabase<ServerTables>, name: string): Promise<bigint> {
  const [cursor = 0n] = await followerCursors(database, [name]);
  return cursor;
}

/** How far followers have come, in the order of their names here; 0 before the first step of each. */
export async function followerCursors(
  database: SqlDatabase<ServerTables>,
  names: readonly string[],
): Promise<readonly bigint[]> {
  const rows = await database.read(async (tables) =>
    tables.selectFrom('follower').selectAll().where('name', 'in', names).execute(),
  );
  const cursors = new Map(rows.map(({ name, cursor }) => [name, cursor]));
  return names.map((name) => cursors.get(name) ?? 0n);
}

/** Moves a follower's cursor within its unit of work. `digest`: of what it has under that cursor of another party. */
export async function moveCursor(
  tables: LedgerTransaction,
  name: string,
  cursor: bigint,
  digest: Uint8Array | null = null,
): Promise<void> {
  await tables
    .insertInto('follower')
    .values({ name, cursor, digest })
    .onConflict((conflict) => conflict.column('name').doUpdateSet({ cursor, digest }))
    .execute();
}
