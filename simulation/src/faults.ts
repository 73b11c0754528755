/**
 * What goes wrong in a world: each seed has another part of it, with other weights, at other times.
 *
 * Guarantees: each kind draws from a stream of its own, so that leaving one out does not change the others; after the phase of
 * faults all of them end (`end`). What the machine does (disks, networks, kills, clocks) is here; what people do to each other is
 * `adversary.ts`.
 */
import { NO_NETWORK_FAULTS } from './network.ts';
import { CD_SOCKET, DAY_MS, type LineSetting, STORE } from './parties.ts';
import type { Checkers } from './checkers.ts';
import type { Observation } from './observation.ts';
import type { Occasions } from './occasions.ts';
import type { World } from './world.ts';

/** The kinds of what the machine does. */
export const MACHINE_FAULTS = [
  'messages lost',
  'messages doubled',
  'messages late',
  'messages altered',
  'messages replayed',
  'local sockets break',
  'partitions',
  'kills',
  'power cuts',
  'writes fail',
  'fsyncs fail',
  'disks full',
  'clocks skewed',
  'clocks jump by years',
  'cryptographic device slow',
  'cryptographic device down',
  'host put back',
  'server put back',
  'authority put back',
  'host disk gone',
] as const;
/** What takes a host's archive away. */
export const ARCHIVE_LOST: readonly string[] = ['host put back', 'host disk gone', 'PSD and host put back'];
export type MachineFault = (typeof MACHINE_FAULTS)[number];

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const YEAR_MS = 365 * DAY_MS;

export type FaultOptions = {
  readonly occasions: Occasions;
  readonly lines: readonly LineSetting[];
  readonly seen: Observation;
  readonly checkers: Checkers;
  readonly onServerPutBack: () => void;
  readonly onAuthorityPutBack: () => void;
};

export class MachineFaults {
  readonly #world: World;
  readonly #options: FaultOptions;
  /** Parties whose disks are full now. */
  readonly #full = new Set<string>();

  constructor(world: World, options: FaultOptions) {
    this.#world = world;
    this.#options = options;
  }

  /** Begins whatever the seed has chosen. */
  begin(): void {
    const { network, disks } = this.#world;
    const { occasions } = this.#options;
    const weight = (kind: MachineFault, most: number): number =>
      occasions.has(kind) ? most * this.#world.stream(`weight of ${kind}`).fraction() ** 2 : 0;
    network.faults = {
      lost: weight('messages lost', 0.2),
      doubled: weight('messages doubled', 0.2),
      late: weight('messages late', 0.05),
      altered: weight('messages altered', 0.1),
      replayed: weight('messages replayed', 0.1),
      localBroken: weight('local sockets break', 0.03),
    };
    const writes = { weight: weight('writes fail', 0.002), random: this.#world.stream('writes fail') };
    const fsyncs = { weight: weight('fsyncs fail', 0.004), random: this.#world.stream('fsyncs fail') };
    disks.faults = {
      write: (path) => {
        if (this.#full.has(partyOf(path))) return 'full';
        return writes.random.chance(writes.weight) && occasions.may('writes fail') ? 'error' : 'done';
      },
      commit: (path) => {
        if (this.#full.has(partyOf(path))) return 'full';
        if (!fsyncs.random.chance(fsyncs.weight) || !occasions.may('fsyncs fail')) return 'done';
        return fsyncs.random.chance(0.5) ? 'lost' : 'kept';
      },
    };
    occasions.nowAndThen('kills', 20 * MINUTE_MS, (random) => {
      const name = random.pick([...this.#world.processes.keys()]);
      this.#world.processes.get(name)?.killAtBoundary(random.whole(0, 24));
    });
    occasions.nowAndThen('power cuts', HOUR_MS, (random) => {
      this.#world.kill(random.pick([...this.#world.processes.keys()]), 'power cut', true);
    });
    occasions.nowAndThen('partitions', HOUR_MS, (random) => {
      const lines = this.#options.lines.map(({ line }) => `host-${line}`);
      const [one, other] = random.chance(0.6) ? [random.pick(lines), 'server'] : ['server', 'authority'];
      const cut = random.chance(0.5) ? [`${one}>${other}`, `${other}>${one}`] : [`${one}>${other}`];
      for (const way of cut) network.partitions.add(way);
      occasions.later(random.whole(2, 120) * MINUTE_MS, () => {
        for (const way of cut) network.partitions.delete(way);
      });
    });
    occasions.nowAndThen('disks full', 2 * HOUR_MS, (random) => {
      const party = partyOf(random.pick(disks.paths()));
      this.#full.add(party);
      occasions.later(random.whole(1, 30) * MINUTE_MS, () => {
        this.#full.delete(party);
      });
    });
    occasions.nowAndThen('cryptographic device slow', HOUR_MS, (random) => {
      network.slowness.set(CD_SOCKET, random.whole(1_000, 60_000));
      occasions.later(random.whole(5, 60) * MINUTE_MS, () => {
        network.slowness.delete(CD_SOCKET);
      });
    });
    occasions.nowAndThen('cryptographic device down', 2 * HOUR_MS, (random) => {
      this.#world.stopFor('cryptographic-device', random.whole(5, 90) * MINUTE_MS);
    });
    occasions.nowAndThen('clocks skewed', HOUR_MS, (random) => {
      const party = random.pick([...this.#world.processes.keys()]);
      this.#world.skewMs.set(party, random.whole(-6 * HOUR_MS, 6 * HOUR_MS));
    });
    occasions.nowAndThen('clocks jump by years', 5 * HOUR_MS, (random) => {
      const party = random.pick([...this.#world.processes.keys()]);
      this.#world.skewMs.set(party, (random.chance(0.5) ? 1 : -1) * random.whole(1, 3) * YEAR_MS);
      occasions.later(random.whole(5, 120) * MINUTE_MS, () => {
        this.#world.skewMs.delete(party);
      });
    });
    for (const { line } of this.#options.lines) this.#putBack('host put back', `host-${line}`, STORE.host(line));
    this.#putBack('server put back', 'server', STORE.server, {
      mayBe: () => this.#logHasCopies(),
      then: () => {
        this.#options.seen.serverWasPutBack = true;
        this.#options.checkers.serverPutBack();
        this.#options.onServerPutBack();
      },
    });
    this.#putBack('authority put back', 'authority', STORE.authority, {
      then: () => {
        this.#options.checkers.authorityPutBack();
        this.#options.onAuthorityPutBack();
      },
    });
    occasions.nowAndThen('host disk gone', 8 * HOUR_MS, (random) => {
      const { line } = random.pick(this.#options.lines);
      this.#world.kill(`host-${line}`, 'its disk burnt');
      disks.put(STORE.host(line), undefined);
      this.#options.seen.hostDiskGone.add(line);
    });
  }

  /** No fault any more; what was wrong is put right, as people do. */
  end(): void {
    const { network, disks, skewMs } = this.#world;
    network.faults = { ...NO_NETWORK_FAULTS };
    network.partitions.clear();
    network.slowness.clear();
    skewMs.clear();
    this.#full.clear();
    disks.faults = { write: () => 'done', commit: () => 'done' };
  }

  /** A database goes back to a copy of itself from some time ago, as after a restore from a backup. */
  #putBack(
    kind: MachineFault,
    party: string,
    path: string,
    options: { readonly mayBe?: () => boolean; readonly then?: () => void } = {},
  ): void {
    const { disks } = this.#world;
    const { occasions } = this.#options;
    occasions.nowAndThen(kind, 5 * HOUR_MS, (random) => {
      if (!disks.paths().includes(path)) return;
      const copy = disks.copy(path);
      occasions.later(random.whole(5, 240) * MINUTE_MS, () => {
        if (occasions.ended || !(options.mayBe?.() ?? true)) return;
        this.#world.kill(party, 'it is restored from a backup');
        disks.put(path, copy);
        this.#world.count(`fault: ${kind}`);
        options.then?.();
      });
    });
  }

  /** Whether somebody but the server has every record of its log, whatever becomes of the hosts. */
  #logHasCopies(): boolean {
    const { disks } = this.#world;
    if (!ARCHIVE_LOST.some((kind) => this.#options.occasions.has(kind))) return true;
    const records = (path: string): Set<string> =>
      new Set(
        disks.rows<{ readonly name: string }>(path, 'SELECT hex(digest) AS name FROM record').map(({ name }) => name),
      );
    const elsewhere = records(STORE.authority);
    return [...records(STORE.server)].every((name) => elsewhere.has(name));
  }
}

/** The folder that a database lies in. */
function partyOf(path: string): string {
  return path.split('/')[1] ?? '';
}
