/**
 * The run of one seed: an installation with its lines, mailings over some days, faults, then peace, and all books compared.
 *
 * Guarantees that the same seed is the same run, and that leaving out a kind of fault, or later faults, leaves the rest as it was as
 * far as that can be. Never rejects: what goes wrong with the world itself is a violation, too.
 */
import type { PrintPort } from '@countermark/host/print-port';
import { Checkers } from './checkers.ts';
import { MACHINE_FAULTS, MachineFaults } from './faults.ts';
import { Bookkeeper } from './bookkeeper.ts';
import { Mailer } from './mailers.ts';
import { Observation } from './observation.ts';
import { DAY_MS, hostSocket, type LineSetting, startTheHost, startThePsd, STORE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import { LICENSEES, makeMailing, type Mailing } from './workload.ts';
import { operate, prepareTemplates, startInstallation, type Violation, ViolationFound, World } from './world.ts';

/** What one run is: a seed, and what of it is left out when a failure is made small. */
export type Replay = {
  readonly seed: string;
  /** Kinds of faults that do not happen. */
  readonly without?: readonly string[];
  /** At most so many mailings in all. */
  readonly mailings?: number;
  /** Only the first so many faults happen. */
  readonly faults?: number;
};

export type Outcome = {
  readonly replay: Replay;
  readonly violation: Violation | null;
  /** Of the whole trace: equal for equal runs. */
  readonly hash: string;
  readonly events: number;
  readonly batches: number;
  readonly counts: ReadonlyMap<string, number>;
  readonly trace: readonly string[];
  /** What the seed chose. */
  readonly faultKinds: readonly string[];
};

/** All kinds of faults. */
export const FAULT_KINDS: readonly string[] = [...MACHINE_FAULTS];

/** Batches that a world has at least. */
const BATCHES_LEAST = 50;
/** The time in which everything goes wrong. */
const FAULTS_MS = 10 * 3_600_000;
/** In so much virtual time a world must have come to rest after the last fault. */
const CONVERGENCE_MS = 20 * DAY_MS;
const LOOK_MS = 30 * 60_000;
const LONGEST_LOOK_MS = 6 * 3_600_000;
/** How much longer everybody rests between looks than a machine with nothing else to do: most of them see nothing new. */
const PATIENCE = 240;
const QUIET_PATIENCE = 1_440;

const noPrinter: PrintPort = {
  open: async () => ({
    openBatch: async () => undefined,
    pieces: async () => undefined,
    end: async () => undefined,
    abandon: async () => undefined,
  }),
};

export async function runSeed(replay: Replay, options: { readonly wholeTrace?: boolean } = {}): Promise<Outcome> {
  await prepareTemplates();
  const world = new World({ seed: replay.seed, wholeTrace: options.wholeTrace ?? false });
  const run = new Run(world, replay);
  const unhandled = (error: unknown): void => {
    world.unhandled(error);
  };
  process.on('unhandledRejection', unhandled);
  let violation: Violation | null = null;
  try {
    await run.play();
  } catch (error) {
    violation =
      error instanceof ViolationFound
        ? error.violation
        : {
            checker: 'simulation',
            what: error instanceof Error ? (error.stack ?? error.message) : String(error),
            atMs: 0,
          };
  }
  process.off('unhandledRejection', unhandled);
  const outcome: Outcome = {
    replay,
    violation,
    hash: world.trace.hash,
    events: world.scheduler.happened,
    batches: world.counts.get('records sealed') ?? 0,
    counts: world.counts,
    trace: world.trace.lines,
    faultKinds: run.chosen,
  };
  world.close();
  return outcome;
}

class Run {
  readonly #world: World;
  readonly #replay: Replay;
  readonly #plan: RandomStream;
  chosen: readonly string[] = [];

  constructor(world: World, replay: Replay) {
    this.#world = world;
    this.#replay = replay;
    this.#plan = world.stream('plan');
  }

  async play(): Promise<void> {
    const world = this.#world;
    this.chosen = this.#choose();
    const lines = this.#lines();
    const seen = new Observation(world);
    world.network.onAnswer = (crossing) => {
      seen.crossed(crossing);
    };
    const checkers = new Checkers(world, seen, lines);
    await startInstallation(world, this.#policy(lines.some(({ forwarding }) => forwarding === 'hold')));
    const mailers = await this.#open(lines);
    const startMs = world.scheduler.nowMs;
    const faultsEndMs = startMs + FAULTS_MS;
    const faults = new MachineFaults(world, {
      chosen: new Set(this.chosen),
      most: this.#replay.faults ?? Infinity,
      untilMs: faultsEndMs,
      lines,
      seen,
      checkers,
      onServerPutBack: () => {
        new Bookkeeper(world).begin();
      },
    });
    faults.begin();
    world.patience = PATIENCE;
    for (const mailer of mailers) this.#putToWork(mailer, startMs);
    await world.run(faultsEndMs);
    faults.end();
    world.patience = QUIET_PATIENCE;
    world.startAll();
    await this.#converge(mailers, checkers);
  }

  /** Another part of all faults for each seed; some seeds have none. */
  #choose(): string[] {
    const without = new Set(this.#replay.without ?? []);
    const share = this.#plan.fraction() ** 1.5;
    const chosen = FAULT_KINDS.filter(
      (kind) => this.#world.stream(`choice of ${kind}`).chance(share) && !without.has(kind),
    );
    // What both the host's archive and the server's log have lost only the authority has, and nothing feeds a log from there yet.
    const lost: readonly string[] = chosen.includes('server put back') ? ['host put back', 'host disk gone'] : [];
    return chosen.filter((kind) => !lost.includes(kind));
  }

  #lines(): LineSetting[] {
    const count = this.#plan.whole(1, 3);
    return Array.from({ length: count }, (_, i) => {
      const forwarding = this.#plan.chance(0.35) ? 'hold' : 'at-once';
      return {
        line: i + 1,
        licensee: i > 0 && this.#plan.chance(0.5) ? LICENSEES[0] : (LICENSEES[i] ?? LICENSEES[0]),
        authentication: this.#plan.chance(0.7) ? 'mac' : 'signature',
        memory: this.#plan.chance(0.5) ? 'host' : 'psd',
        transport: this.#plan.chance(0.5) ? 'session' : 'sessionless',
        forwarding,
        holdForMs: DAY_MS,
        recordCapacity: forwarding === 'hold' ? 1_000 : this.#plan.pick([8, 20, 1_000]),
        firstRefillMills: BigInt(this.#plan.pick([5_000, 40_000, 200_000])),
      } as const;
    });
  }

  #policy(holds: boolean): Readonly<Record<string, unknown>> {
    return {
      maxUnconfirmedBatches: holds ? 1_000 : this.#plan.pick([12, 40, 1_000]),
      highestFundsMills: '400000',
      warnAfterDays: 3,
      lockAfterDays: 10,
    };
  }

  /** Licensees, deposits, devices and hosts. */
  async #open(lines: readonly LineSetting[]): Promise<Mailer[]> {
    const world = this.#world;
    const credentials = new Map<string, string>();
    for (const { licensee } of lines) {
      if (credentials.has(licensee)) continue;
      credentials.set(licensee, await operate<string>(world, 'register-licensee', { licensee }));
      world.deposits.push({ licensee, amountMills: 300_000n, key: 'first' });
      await operate(world, 'deposit', { licensee, amountMills: 300_000n, key: 'first' });
    }
    const mailings = this.#mailings(lines);
    const mailers: Mailer[] = [];
    for (const line of lines) {
      world.define(`psd-${line.line}`, async (setting) => {
        await startThePsd(setting, line);
      });
      const credential = credentials.get(line.licensee) ?? '';
      world.define(`host-${line.line}`, async (setting) => startTheHost(setting, line, credential, noPrinter));
      mailers.push(new Mailer(world, line, mailings.get(line.line) ?? []));
    }
    for (const { line } of lines) {
      await world.run(world.scheduler.nowMs + 60_000, () => world.network.service(hostSocket(line)) !== undefined);
    }
    return mailers;
  }

  #mailings(lines: readonly LineSetting[]): Map<number, Mailing[]> {
    const random = this.#world.stream('workload');
    const mailings = new Map<number, Mailing[]>(lines.map(({ line }) => [line, []]));
    let batches = 0;
    let number = 0;
    const most = this.#replay.mailings ?? Infinity;
    while (batches < BATCHES_LEAST + 2 && number < most) {
      const line = lines[number % lines.length] as LineSetting;
      number += 1;
      const day = new Date(Date.UTC(2026, 2, 2) + random.whole(0, 3) * DAY_MS).toISOString().slice(0, 10);
      const mailing = makeMailing(random, line, number, day);
      batches += mailing.batches;
      mailings.get(line.line)?.push(mailing);
    }
    return mailings;
  }

  #putToWork(mailer: Mailer, startMs: number): void {
    const world = this.#world;
    const random = world.stream(`times ${mailer.line.line}`);
    const times = mailer.mailings.map(() => startMs + random.fraction() * 0.85 * FAULTS_MS).sort((a, b) => a - b);
    world.scheduler.after(0, world.people, 'work begins', () => {
      mailer.work(times).catch((error: unknown) => {
        world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
      });
    });
  }

  /** Everything confirmed or quarantined, all books equal, within bounded time. */
  async #converge(mailers: readonly Mailer[], checkers: Checkers): Promise<void> {
    const world = this.#world;
    const endMs = world.scheduler.nowMs + CONVERGENCE_MS;
    let contradictions: readonly string[] = ['nobody has looked yet'];
    let resting = false;
    const look = async (): Promise<void> => {
      const settled: boolean[] = [];
      for (const mailer of mailers) settled.push(mailer.finished && (await mailer.settled()));
      contradictions = settled.every(Boolean) ? checkers.contradictions() : ['mailers wait'];
      resting = contradictions.length === 0;
      if (!resting) again();
    };
    let restMs = LOOK_MS;
    const again = (): void => {
      // Each time a little later: what takes days is not looked at every half hour.
      restMs = Math.min(restMs * 1.3, LONGEST_LOOK_MS);
      world.scheduler.after(restMs, world.people, 'looks whether all is at rest', () => {
        look().catch((error: unknown) => {
          world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
        });
      });
    };
    again();
    if (await world.run(endMs, () => resting)) return;
    const waiting = mailers
      .filter((mailer) => !mailer.finished || contradictions[0] === 'mailers wait')
      .map(
        ({ line, done, mailings, trouble }) =>
          `line ${line.line}: ${done.size} of ${mailings.length} mailings, ${trouble}`,
      );
    const stopped = [...world.stopped].map(([name, why]) => `${name} does not start: ${why}`);
    throw new ViolationFound({
      checker: 'convergence',
      what: [...stopped, ...waiting, ...contradictions, ...standings(world)].join('; '),
      atMs: CONVERGENCE_MS,
    });
  }
}

/** Where the followers stand, for whoever reads the failure. */
function standings({ disks }: World): string[] {
  const server = disks.rows<{ readonly name: string; readonly cursor: bigint }>(STORE.server, 'SELECT * FROM follower');
  const [log] = disks.rows<{ readonly last: bigint }>(STORE.server, 'SELECT max(cursor) AS last FROM record');
  const marks = disks.rows<{ readonly log_cursor: bigint; readonly intake_cursor: bigint }>(
    STORE.server,
    'SELECT * FROM delivery_mark',
  );
  const authority = disks.rows<{ readonly name: string; readonly value: bigint }>(
    STORE.authority,
    'SELECT name, value FROM position',
  );
  return [
    `log ${log?.last ?? 0n}`,
    ...server.map(({ name, cursor }) => `server's ${name} ${cursor}`),
    ...marks.map((mark) => `delivered ${mark.log_cursor} as ${mark.intake_cursor}`),
    ...authority.map(({ name, value }) => `authority's ${name} ${value}`),
  ];
}
