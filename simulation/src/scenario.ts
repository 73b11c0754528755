/**
 * The run of one seed: an installation with its lines, mailings over some days, faults, then peace, and all books compared.
 *
 * Guarantees that the same seed is the same run, and that leaving out a kind of fault, or later faults, leaves the rest as it was as
 * far as that can be. Never rejects: what goes wrong with the world itself is a violation, too.
 */
import type { PrintPort } from '@countermark/host/print-port';
import { Adversary, type AdversaryOptions, PEOPLE_FAULTS } from './adversary.ts';
import { Authenticity } from './authenticity.ts';
import { Checkers } from './checkers.ts';
import { HOST_MISDEEDS, ROGUE } from './dishonest-host.ts';
import { ARCHIVE_LOST, MACHINE_FAULTS, MachineFaults } from './faults.ts';
import { Bookkeeper } from './bookkeeper.ts';
import { Mailer } from './mailers.ts';
import { Observation } from './observation.ts';
import { Occasions } from './occasions.ts';
import { Operators } from './operators.ts';
import { DAY_MS, hostSocket, type LineSetting, startTheHost, startThePsd, STORE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import { Standing } from './standing.ts';
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
export const FAULT_KINDS: readonly string[] = [...MACHINE_FAULTS, ...PEOPLE_FAULTS];

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
/** A line that goes on with another device has another number, by so much. */
const NEXT_DEVICE = 10;

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
  /** Of all lines; one that goes on with another device is a further line. */
  readonly #lines: LineSetting[] = [];
  readonly #mailers: Mailer[] = [];
  readonly #credentials = new Map<string, string>();
  #operators: Operators | undefined;

  constructor(world: World, replay: Replay) {
    this.#world = world;
    this.#replay = replay;
    this.#plan = world.stream('plan');
  }

  async play(): Promise<void> {
    const world = this.#world;
    this.chosen = this.#choose();
    this.#lines.push(...this.#planned());
    const lines = this.#lines;
    const seen = new Observation(world);
    const checkers = new Checkers(world, seen, lines);
    const authenticity = new Authenticity(world, seen);
    const people = PEOPLE_FAULTS.some((kind) => this.chosen.includes(kind));
    const standing = people ? new Standing(world, seen) : null;
    let adversary: Adversary | null = null;
    world.network.onAnswer = (crossing) => {
      seen.crossed(crossing);
      authenticity.crossed(crossing);
      standing?.crossed(crossing);
      adversary?.crossed(crossing);
    };
    const policy = this.#policy(lines.some(({ forwarding }) => forwarding === 'hold'));
    await startInstallation(world, policy);
    await this.#open();
    const startMs = world.scheduler.nowMs;
    const faultsEndMs = startMs + FAULTS_MS;
    const occasions = new Occasions(world, {
      chosen: new Set(this.chosen),
      most: this.#replay.faults ?? Infinity,
      untilMs: faultsEndMs,
    });
    const faults = new MachineFaults(world, {
      occasions,
      lines,
      seen,
      checkers,
      onServerPutBack: () => {
        standing?.serverPutBack();
        new Bookkeeper(world).begin();
      },
      onAuthorityPutBack: () => {
        standing?.authorityPutBack();
      },
    });
    faults.begin();
    adversary = standing === null ? null : this.#adversary({ occasions, seen, checkers, standing });
    world.patience = PATIENCE;
    for (const mailer of this.#mailers) this.#putToWork(mailer, this.#times(mailer, startMs));
    await world.run(faultsEndMs);
    occasions.end();
    faults.end();
    adversary?.end();
    world.patience = QUIET_PATIENCE;
    world.startAll();
    await this.#converge(
      () => (adversary?.atRest ?? true) && (this.#operators?.atRest ?? true),
      () => [
        ...checkers.contradictions(),
        ...(standing?.contradictions() ?? []),
        ...(adversary?.contradictions() ?? []),
      ],
      (line) => (standing?.hasReported(line) ?? true) && (this.#operators?.hasEnded(line) ?? true),
    );
  }

  /** What people do to each other, and those who look after it. */
  #adversary(of: Pick<AdversaryOptions, 'occasions' | 'seen' | 'checkers' | 'standing'>): Adversary {
    const world = this.#world;
    this.#operators = new Operators(world, (device) => {
      for (const mailer of [...this.#mailers]) {
        if (!mailer.retired && of.seen.deviceOfLine.get(mailer.line.line) === device) this.#goOnWithAnother(mailer);
      }
    });
    this.#operators.begin();
    for (const mailer of this.#mailers) this.#tellHopeless(mailer, of.seen);
    this.#hopeless = (mailer) => {
      this.#tellHopeless(mailer, of.seen);
    };
    const adversary = new Adversary(world, {
      ...of,
      mailers: this.#mailers,
      operators: this.#operators,
      credentialOf: (licensee) => this.#credentials.get(licensee) ?? '',
    });
    adversary.begin();
    return adversary;
  }
  #hopeless: (mailer: Mailer) => void = () => undefined;

  /** A device that is older than its journal is withdrawn (docs/backup.md). */
  #tellHopeless(mailer: Mailer, seen: Observation): void {
    mailer.onHopeless = (code) => {
      const device = seen.deviceOfLine.get(mailer.line.line);
      // A conflict may be of a server that was put back, and over soon: people ask whether somebody has a copy.
      if (device === undefined || (code === 'funds-request-conflict' && !seen.branched.has(device))) return;
      this.#operators?.withdraw(device, code);
    };
  }

  /** The line's device has ended: what was not begun is franked with a new one, and a new host folder. */
  #goOnWithAnother(mailer: Mailer): void {
    const world = this.#world;
    mailer.retired = true;
    const left = mailer.mailings.filter(({ job }) => !mailer.done.has(job) && !mailer.begun.has(job));
    if (left.length === 0) return;
    const next = this.#openLine({ ...mailer.line, line: mailer.line.line + NEXT_DEVICE }, left);
    this.#hopeless(next);
    world.count('lines that went on with another device');
    this.#putToWork(
      next,
      left.map(() => world.scheduler.nowMs),
    );
  }

  /** Another part of all faults for each seed; some seeds have none. */
  #choose(): string[] {
    const without = new Set(this.#replay.without ?? []);
    const share = this.#plan.fraction() ** 1.5;
    const chosen = FAULT_KINDS.filter(
      (kind) => this.#world.stream(`choice of ${kind}`).chance(share) && !without.has(kind),
    );
    // What the host's archive and the server's log have lost the server has again from the authority: not where that never had it, or may lose it, too.
    const noCopy =
      chosen.includes('server confirms and does not log') ||
      (chosen.includes('server put back') && chosen.includes('authority put back'));
    return chosen.filter((kind) => !noCopy || !ARCHIVE_LOST.includes(kind));
  }

  #planned(): LineSetting[] {
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
  async #open(): Promise<void> {
    const world = this.#world;
    const lines = [...this.#lines];
    for (const { licensee } of lines) {
      if (this.#credentials.has(licensee)) continue;
      this.#credentials.set(licensee, await operate<string>(world, 'register-licensee', { licensee }));
      world.deposits.push({ licensee, amountMills: 300_000n, key: 'first' });
      await operate(world, 'deposit', { licensee, amountMills: 300_000n, key: 'first' });
    }
    if (HOST_MISDEEDS.some((kind) => this.chosen.includes(kind))) {
      await operate(world, 'register-licensee', { licensee: ROGUE });
    }
    const mailings = this.#mailings(lines);
    for (const line of lines) this.#openLine(line, mailings.get(line.line) ?? []);
    for (const { line } of lines) {
      await world.run(world.scheduler.nowMs + 60_000, () => world.network.service(hostSocket(line)) !== undefined);
    }
  }

  /** A device with its host and its mailer. */
  #openLine(line: LineSetting, mailings: readonly Mailing[]): Mailer {
    const world = this.#world;
    if (!this.#lines.includes(line)) this.#lines.push(line);
    world.define(`psd-${line.line}`, async (setting) => {
      await startThePsd(setting, line);
    });
    const credential = this.#credentials.get(line.licensee) ?? '';
    world.define(`host-${line.line}`, async (setting) => startTheHost(setting, line, credential, noPrinter));
    const mailer = new Mailer(world, line, mailings);
    this.#mailers.push(mailer);
    return mailer;
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

  #times(mailer: Mailer, startMs: number): number[] {
    const random = this.#world.stream(`times ${mailer.line.line}`);
    return mailer.mailings.map(() => startMs + random.fraction() * 0.85 * FAULTS_MS).sort((a, b) => a - b);
  }

  #putToWork(mailer: Mailer, times: readonly number[]): void {
    const world = this.#world;
    world.scheduler.after(0, world.people, 'work begins', () => {
      mailer.work(times).catch((error: unknown) => {
        world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
      });
    });
  }

  /** The device has ended and reported what it can: nobody lets it run on. */
  #switchOff(line: number): void {
    for (const name of [`host-${line}`, `psd-${line}`]) {
      if (this.#world.isDefined(name)) this.#world.remove(name, 'its line has ended');
    }
  }

  /** Everything confirmed or quarantined, all books equal, within bounded time. */
  async #converge(
    peopleRest: () => boolean,
    compared: () => readonly string[],
    reported: (line: number) => boolean,
  ): Promise<void> {
    const world = this.#world;
    const mailers = this.#mailers;
    const endMs = world.scheduler.nowMs + CONVERGENCE_MS;
    let contradictions: readonly string[] = ['nobody has looked yet'];
    let resting = false;
    const look = async (): Promise<void> => {
      const settled: boolean[] = [];
      for (const mailer of mailers) {
        if (mailer.retired && !reported(mailer.line.line)) await mailer.reportTheRest();
        // Of a line that has ended its records are looked at, not what its host still hopes for.
        settled.push(mailer.retired || (mailer.finished && (await mailer.settled())));
        if (mailer.retired && reported(mailer.line.line)) this.#switchOff(mailer.line.line);
      }
      contradictions = !settled.every(Boolean)
        ? ['mailers wait']
        : peopleRest()
          ? compared()
          : ['people are not done with what they began'];
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
      what: [
        ...stopped,
        ...waiting,
        ...contradictions,
        ...standings(world),
        ...this.#lines.map(({ line }) => archiveOf(world, line)),
      ].join('; '),
      atMs: CONVERGENCE_MS,
    });
  }
}

/** What a host's archive says of its records, in words. */
function archiveOf({ disks, scheduler }: World, line: number): string {
  const rows = disks.rows<{
    readonly state: string;
    readonly reason: string;
    readonly n: bigint;
    readonly untilMs: bigint | null;
  }>(
    STORE.host(line),
    `SELECT state, coalesce(reason, '') AS reason, count(*) AS n, min(hold_until_ms) AS untilMs FROM record GROUP BY state, reason`,
  );
  const held = (untilMs: bigint | null): string =>
    untilMs === null ? '' : ` until ${Math.round((Number(untilMs) - scheduler.nowMs) / 3_600_000)} h from now`;
  return `host-${line}: ${rows.map(({ state, reason, n, untilMs }) => `${n} ${state} ${reason}${held(untilMs)}`).join(', ')}`;
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
