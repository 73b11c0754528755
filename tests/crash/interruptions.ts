/**
 * Real processes killed while a device is refilled, and while it is closed: at each named point, in each memory and transport.
 *
 * Guarantees: a refill that was cut off at a point is gone on with by itself at the next connection, and has then happened once, by what
 * device, ledger and host say; one of which nothing was durable happens when it is asked for again. A device that is closed while every
 * process that takes part is killed at each of its points makes one final statement, is paid back once, in full, and has no keys left.
 * After every death the party's own `check` has read its store before it serves again; at the end every store is checked once more.
 * What is not so, and a point that was ordered and never reached, is told in words.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Refused } from '@countermark/cli/failure';
import type { InstallationPaths, PartyName } from '@countermark/cli/installation-paths';
import { askServer } from '@countermark/cli/registration';
import { errorCode, errorText, Fault } from '@countermark/node-platform/fault';
import { HOST } from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { type Line, startInstallation, type TestInstallation } from '../installation.ts';
import { checkAll, checkedAndKillable, orderFile, takeChecks } from './checked-process.ts';
import { type CrashPoint, END_POINTS, REFILL_POINTS } from './crash-points.ts';
import type { Way } from './kill-plan.ts';
import type { Death } from './kills.ts';
import { pause, persistently } from './patience.ts';

const REFILL_MILLS = 1_000_000n;
const REACHED_MS_MAX = 180_000;
const OVER_MS_MAX = 400_000;

export type InterruptionOptions = {
  readonly ways: readonly Way[];
  /** Told after each device, in words. */
  readonly say: (words: string) => void;
};

export type InterruptionReport = {
  readonly deaths: readonly Death[];
  readonly checks: number;
  readonly seconds: number;
  /** What was lost, doubled, contradicted or not reached, in words. */
  readonly violations: readonly string[];
};

/** One device in each way: refilled, with a kill at each point, and then closed, with a kill at each point. */
export async function runInterruptions({ ways, say }: InterruptionOptions): Promise<InterruptionReport> {
  const started = performance.now();
  const stage = new Stage(await startInstallation({ starting: { wrap: checkedAndKillable, restartMsMax: 40 } }));
  try {
    for (const [i, way] of ways.entries()) {
      await stage.play(way, i);
      say(`${stage.deaths.length} kills, ${stage.violations.length} violations`);
    }
    await stage.finish();
    const { deaths, checks, violations } = stage;
    return { deaths, checks, seconds: Math.round((performance.now() - started) / 100) / 10, violations };
  } finally {
    await stage.close();
  }
}

type Account = { readonly account: string; readonly balanceMills: string };
type Entry = { readonly kind: string; readonly ref: string };
type DeviceFile = {
  readonly standing: string;
  readonly closure: { readonly settled: string; readonly sequence: number; readonly returnedMills: string } | null;
  readonly acts: readonly { readonly act: string }[];
};

class Stage {
  readonly deaths: Death[] = [];
  readonly violations: string[] = [];
  checks = 0;
  readonly #installation: TestInstallation;
  readonly #lines: Line[] = [];

  constructor(installation: TestInstallation) {
    this.#installation = installation;
  }

  async play(way: Way, number: number): Promise<void> {
    const licensee = `lic_interrupted-${number}`;
    const line = await this.#installation.line({ ...way, pages: false, licensee });
    this.#lines.push(line);
    const name = `${way.records}, ${way.transport}`;
    for (const point of REFILL_POINTS)
      await this.#watched(`${point.name} (${name})`, () => this.#refill(line, name, licensee, point));
    await this.#watched(`the end (${name})`, () => this.#end(line, name, licensee));
  }

  async finish(): Promise<void> {
    for (const line of this.#lines) await line.stop();
    for (const party of Object.values(this.#installation.processes)) await party.stop();
    this.#note('all over', await checkAll(this.#folders()));
  }

  async close(): Promise<void> {
    await this.#installation.stop();
  }

  /** What goes wrong in it is a violation. */
  async #watched(where: string, play: () => Promise<readonly string[]>): Promise<void> {
    try {
      for (const words of await play()) this.violations.push(`${where}: ${words}`);
    } catch (error) {
      this.violations.push(`${where}: ${errorText(error)}`);
    }
    this.#note(where, takeChecks(this.#folders()));
  }

  async #refill(line: Line, way: string, licensee: string, point: CrashPoint): Promise<readonly string[]> {
    const before = await persistently(() => line.device());
    const bookedBefore = await this.#booked(line, licensee);
    const killed = this.#killed(line, way, [point]);
    const asking = line.host.call(HOST.refill, { amountMills: String(REFILL_MILLS) }).catch(() => undefined);
    const missed = await killed;
    if (missed.length > 0) return missed;
    await asking;
    // From here on nobody asks for it again: it has to come to its end by itself.
    let after = await this.#once(line, (status) => status.pendingFundsRequest === undefined);
    if (point.undone === true && after.funds.receivedMills === before.funds.receivedMills) {
      await persistently(() => line.host.call(HOST.refill, { amountMills: String(REFILL_MILLS) }));
      after = await persistently(() => line.device());
    }
    const said: string[] = [];
    const differs = (what: string, is: unknown, was: unknown): void => {
      if (String(is) !== String(was)) said.push(`${what}: ${String(is)}, and ${String(was)} would be right`);
    };
    differs('received', after.funds.receivedMills, before.funds.receivedMills + REFILL_MILLS);
    differs('descending', after.registers.descendingMills, before.registers.descendingMills + REFILL_MILLS);
    differs('ascending', after.registers.ascendingMills, before.registers.ascendingMills);
    differs('last grant', after.funds.lastGrant, before.funds.lastGrant + 1);
    const booked = await this.#booked(line, licensee);
    const own = `funds:${after.device}:${after.funds.lastGrant}`;
    differs('entries', booked.funds.join(), [...bookedBefore.funds, own].join());
    differs('account of the device', booked.deviceMills, after.registers.descendingMills);
    differs('deposit', booked.depositMills, bookedBefore.depositMills - REFILL_MILLS);
    const { receipts } = await persistently(() => line.host.call(HOST.fundsReport, {}));
    const received = receipts.map(({ number, amountMills, taken }) => `${number} ${amountMills} ${String(taken)}`);
    differs('last receipt', received.at(-1), `${after.funds.lastGrant} ${REFILL_MILLS} true`);
    differs('receipts', receipts.length, after.funds.lastGrant);
    return said;
  }

  async #end(line: Line, way: string, licensee: string): Promise<readonly string[]> {
    const file = join(line.paths.data, 'last.csv');
    const rows = Array.from({ length: 5 }, (_, i) => `last-${i},usps-fcm-letter,5-digit,0.95,02108`);
    writeFileSync(file, ['piece_ref,product,level,weight_oz,zip', ...rows].join('\n'));
    await persistently(() => line.host.call(HOST.frank, { file, job: 'last', keepOpen: true }));
    const before = await persistently(() => line.device());
    const { depositMills, funds } = await this.#booked(line, licensee);
    const parties = new Set(END_POINTS.map(({ party }) => party));
    const killing = Promise.all(
      [...parties].map((party) =>
        this.#killed(
          line,
          way,
          END_POINTS.filter((point) => point.party === party),
        ),
      ),
    );
    killing.catch(() => undefined);
    // The server dies of it, and nobody orders it again.
    await askServer(this.#installation.operator, 'POST', `/v1/devices/${before.device}/closure`, {
      reason: 'taken down',
    }).catch(() => undefined);
    const over = await this.#once(
      line,
      async (status) => status.zeroised === true && (await this.#file(status.device)).closure?.settled === 'refunded',
    );
    const wrong = (await killing).flat();
    const differs = (what: string, is: unknown, was: unknown): void => {
      if (String(is) !== String(was)) wrong.push(`${what}: ${String(is)}, and ${String(was)} would be right`);
    };
    const returnedMills = before.registers.descendingMills;
    differs('records', over.sequence, 2);
    differs('final statement', over.finalSequence, 2);
    differs('unconfirmed', over.unconfirmedRecords, 0);
    differs('ascending', over.registers.ascendingMills, before.registers.ascendingMills);
    differs('descending', over.registers.descendingMills, 0n);
    differs('returned', over.funds.returnedMills, returnedMills);
    differs('received', over.funds.receivedMills, before.funds.receivedMills);
    const { standing, closure, acts } = await this.#file(over.device);
    differs('standing', standing, 'closed');
    differs('refunded', closure?.returnedMills, returnedMills);
    differs('acts', acts.map(({ act }) => act).join(), 'closing,refunded');
    const booked = await this.#booked(line, licensee);
    differs('deposit', booked.depositMills, depositMills + returnedMills);
    differs('account of the device', booked.deviceMills, 0n);
    differs('entries', booked.funds.join(), [...funds, `refund:${over.device}`].join());
    const { records } = await persistently(() => line.host.call(HOST.statistics, {}));
    differs(
      'archive',
      records.map(({ sequence, type, state }) => `${sequence} ${type} ${state}`).join(),
      '1 batch-statistics confirmed,2 final-statement confirmed',
    );
    return wrong;
  }

  /**
   * Has the process of these points die at each, one after the other, and resolves after the last death; says which were not reached.
   * All are ordered at once: a process that comes back may be at its next point before anybody sees it.
   */
  async #killed(line: Line, way: string, points: readonly CrashPoint[]): Promise<readonly string[]> {
    const [first] = points;
    if (first === undefined) return [];
    const order = this.#orderOf(line, first.party);
    writeFileSync(order, points.map(({ name }) => `${name} 1`).join('\n'));
    let left = points;
    let sinceMs = performance.now();
    while (left.length > 0 && performance.now() - sinceMs < REACHED_MS_MAX) {
      await pause();
      const ordered = ordersIn(order);
      for (const { party, name } of left.slice(0, left.length - ordered)) {
        this.deaths.push({ party, way, at: name });
        sinceMs = performance.now();
      }
      left = left.slice(left.length - ordered);
    }
    rmSync(order, { force: true });
    return left.map(({ name }) => `${name} was not reached`);
  }

  /** The device's status once it is so; whoever is away is asked again, and the host told that the network may be back. */
  async #once(line: Line, isSo: (status: DeviceStatus) => boolean | Promise<boolean>): Promise<DeviceStatus> {
    const endMs = performance.now() + OVER_MS_MAX;
    for (;;) {
      try {
        await line.host.call(HOST.send, {});
        const status = await line.device();
        if (await isSo(status)) return status;
      } catch (error) {
        if (!(error instanceof Fault) && !(error instanceof Refused)) throw error;
      }
      if (performance.now() > endMs)
        throw new Error(`it did not come to its end: ${JSON.stringify(await standingOf(line))}`);
      await pause();
    }
  }

  /** What the ledger has of the licensee: the refs of its funds and refunds, and two balances. */
  async #booked(line: Line, licensee: string): Promise<{ funds: string[]; depositMills: bigint; deviceMills: bigint }> {
    const path = `/v1/licensees/${licensee}`;
    const { entries } = (await persistently(() => askServer(line.server, 'GET', `${path}/entries`))) as {
      entries: readonly Entry[];
    };
    const { accounts } = (await persistently(() => askServer(line.server, 'GET', `${path}/accounts`))) as {
      accounts: readonly Account[];
    };
    const balance = (prefix: string): bigint =>
      accounts
        .filter(({ account }) => account.startsWith(prefix))
        .reduce((sum, one) => sum + BigInt(one.balanceMills), 0n);
    return {
      funds: entries.filter(({ kind }) => kind === 'funds' || kind === 'refund').map(({ ref }) => ref),
      depositMills: balance('deposit:'),
      deviceMills: balance('device:'),
    };
  }

  async #file(device: string): Promise<DeviceFile> {
    return (await persistently(() =>
      askServer(this.#installation.operator, 'GET', `/v1/devices/${device}`),
    )) as DeviceFile;
  }

  #orderOf(line: Line, party: PartyName): string {
    return orderFile(party === 'psd' || party === 'host' ? line.paths : this.#installation.paths, party);
  }

  #folders(): InstallationPaths[] {
    return [this.#installation.paths, ...this.#lines.map(({ paths }) => paths)];
  }

  #note(where: string, { count, wrong }: ReturnType<typeof takeChecks>): void {
    this.checks += count;
    for (const words of wrong) this.violations.push(`${where}: ${words}`);
  }
}

/** How many orders the file still has; without a file none. */
function ordersIn(file: string): number {
  try {
    return readFileSync(file, 'utf8').trim().split('\n').length;
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
    return 0;
  }
}

/** Where the device stands, for a violation's words. */
async function standingOf(line: Line): Promise<object> {
  const { state, sequence, finalSequence = null, unconfirmedRecords, pendingFundsRequest = null } = await line.device();
  return { state, sequence, finalSequence, unconfirmedRecords, pendingFundsRequest };
}
