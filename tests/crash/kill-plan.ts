/**
 * Which process dies when: the plan of a run of kills, from its seed alone. Rounds go through the four combinations of memory
 * and transport in turn; each is one mailing with up to three kills, of different processes.
 *
 * Guarantees: points come by about equally often, also in each combination; a longer plan begins like a shorter one.
 * Every fifth kill is at a random moment. Does not say how far a mailing has come then: that is the machine's.
 */
import { PARTIES, type PartyName } from '@countermark/cli/installation-paths';
import type { Chance } from './chance.ts';
import { CRASH_POINTS, type CrashPoint } from './crash-points.ts';

export const WAYS = [
  { records: 'host', transport: 'sessionless', authentication: 'signature' },
  { records: 'psd', transport: 'session', authentication: 'mac' },
  { records: 'host', transport: 'session', authentication: 'signature' },
  { records: 'psd', transport: 'sessionless', authentication: 'mac' },
] as const;
export type Way = (typeof WAYS)[number];

/** At a point, reached for the `times`-th time; or at random, so long after the mailing was asked for. */
export type Kill =
  | { readonly at: 'point'; readonly party: PartyName; readonly point: CrashPoint; readonly times: number }
  | { readonly at: 'random'; readonly party: PartyName; readonly afterMs: number };

export type Round = { readonly way: Way; readonly kills: readonly Kill[] };

const ROUND_KILLS_MAX = 3;
/** About as long as a mailing takes on a quiet machine, from the asking to the grants. */
const MAILING_MS = 900;

/** The plan of so many kills. */
export function killPlan(kills: number, chance: Chance): readonly Round[] {
  const rounds: Round[] = [];
  const deaths = new Map<string, number>();
  const countOf = (name: string): number => deaths.get(name) ?? 0;
  let planned = 0;
  while (planned < kills) {
    const place = rounds.length % WAYS.length;
    const way = WAYS[place] as Way;
    const round: Kill[] = [];
    const free = new Set<PartyName>(PARTIES);
    while (round.length < ROUND_KILLS_MAX && planned < kills) {
      planned += 1;
      let kill: Kill;
      if (planned % 5 === 4) {
        kill = { at: 'random', party: chance.of([...free]), afterMs: chance.below(MAILING_MS) };
      } else {
        // The point that was come by least often, and of those least often in this combination.
        const [point] = chance
          .shuffled(CRASH_POINTS)
          .filter(({ party, records }) => free.has(party) && (records === undefined || records === way.records))
          .sort(
            (a, b) =>
              countOf(a.name) - countOf(b.name) || countOf(`${place} ${a.name}`) - countOf(`${place} ${b.name}`),
          );
        if (point === undefined) throw new RangeError('some point always fits');
        for (const name of [point.name, `${place} ${point.name}`]) deaths.set(name, countOf(name) + 1);
        kill = { at: 'point', party: point.party, point, times: point.often === true ? 1 + chance.below(2) : 1 };
      }
      free.delete(kill.party);
      round.push(kill);
    }
    rounds.push({ way, kills: round });
  }
  return rounds;
}
