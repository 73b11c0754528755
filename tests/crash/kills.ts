/**
 * Real processes killed while mailings run: at the named crash points and at random, in each memory and transport.
 *
 * Guarantees: after every death the party's own `check` has read its store before it serves again, and what the device says has
 * room for everything that a witness saw leave it; after every mailing each piece, record, confirmation and mill is where it
 * belongs, by what different parties say in different places; at the end every store is checked again and the authority's totals
 * and the ledger's postage are the devices' registers. What is not so is told in words. A point that was ordered and never reached is told as well.
 * Choices follow from the seed; the moments of random kills are those of the machine.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Refused } from '@countermark/cli/failure';
import { type InstallationPaths, type PartyName } from '@countermark/cli/installation-paths';
import { askServer } from '@countermark/cli/registration';
import { errorText, Fault } from '@countermark/node-platform/fault';
import { hex } from '@countermark/protocol/id';
import { parse } from 'csv-parse/sync';
import { HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { chainGaps, expectAccounted, sealedRecords } from '../accounting.ts';
import { type Line, readSample, startInstallation, type TestInstallation, type TestProcess } from '../installation.ts';
import { Chance } from './chance.ts';
import { checkAll, checkedAndKillable, orderFile, takeChecks } from './checked-process.ts';
import { type Kill, killPlan, type Round, type Way, WAYS } from './kill-plan.ts';
import { pause, persistently, within } from './patience.ts';
import { Witness } from './witness.ts';

const MAILING_DATE = '2026-11-22';
/** Two chunks of the first customer's, one of the second's: two batches. */
const PIECES = { 'alder-press': 280, 'birch-mutual': 40 };
const SETTLED_MS_MAX = 60_000;
const MAILING_MS_MAX = 120_000;
/** A run with so many violations is ended: what follows follows from them. */
const GIVEN_UP_AT = 4;

export type KillOptions = {
  readonly kills: number;
  readonly seed: number;
  /** Told after each round, in words. */
  readonly say: (words: string) => void;
};

/** One death, as it was. */
export type Death = {
  readonly party: PartyName;
  readonly way: string;
  /** The point's name, or `random`. */
  readonly at: string;
};

export type KillReport = {
  readonly seed: number;
  readonly deaths: readonly Death[];
  readonly mailings: number;
  readonly pieces: number;
  readonly records: number;
  /** How often a party's `check` read its store and found nothing. */
  readonly checks: number;
  readonly seconds: number;
  /** What was lost, doubled, contradicted or not reached, in words. */
  readonly violations: readonly string[];
};

/** Runs mailings and kills. Throws only where the run itself cannot go on. */
export async function runKills({ kills, seed, say }: KillOptions): Promise<KillReport> {
  const started = performance.now();
  const stage = await Stage.open();
  try {
    const rounds = killPlan(kills, new Chance(seed));
    for (const [i, round] of rounds.entries()) {
      await stage.play(round, i + 1);
      if (stage.violations.length >= GIVEN_UP_AT) break;
      say(
        `${stage.deaths.length} of ${kills} kills, ${i + 1} mailings, ${stage.violations.length} violations; last: ${round.kills.map(nameOf).join(', ')}`,
      );
    }
    if (stage.violations.length < GIVEN_UP_AT) await stage.finish();
    const { deaths, mailings, pieces, records, checks, violations } = stage;
    const seconds = Math.round((performance.now() - started) / 100) / 10;
    return { seed, deaths, mailings, pieces, records, checks, seconds, violations };
  } finally {
    await stage.close();
  }
}

/** What a kill is called in reports. */
function nameOf(kill: Kill): string {
  return kill.at === 'point' ? kill.point.name : `${kill.party} at random`;
}

type Actor = { readonly line: Line; readonly witness: Witness; readonly name: string };
type Records = ReturnType<typeof sealedRecords>;

/** The installation, its four lines, and what was seen. */
class Stage {
  readonly deaths: Death[] = [];
  readonly violations: string[] = [];
  mailings = 0;
  pieces = 0;
  records = 0;
  checks = 0;
  readonly #installation: TestInstallation;
  readonly #file: string;
  readonly #actors: ReadonlyMap<Way, Actor>;
  readonly #chains = new Map<Actor, Records>();

  private constructor(installation: TestInstallation, file: string, actors: ReadonlyMap<Way, Actor>) {
    this.#installation = installation;
    this.#file = file;
    this.#actors = actors;
  }

  static async open(): Promise<Stage> {
    const starting = { wrap: checkedAndKillable, restartMsMax: 40 };
    const installation = await startInstallation({ starting });
    const file = join(installation.folder, 'mailing.csv');
    writeFileSync(file, mailing());
    const actors = new Map<Way, Actor>();
    for (const [i, way] of WAYS.entries()) {
      const witness = new Witness(way.authentication);
      const line = await installation.line(
        { ...way, pages: false, customers: 'many', licensee: `lic_kills-${i}` },
        {
          tap: async (psdSocket) => {
            const own = join(installation.folder, `tap-${i}.sock`);
            await witness.listen(own, psdSocket);
            return own;
          },
        },
      );
      actors.set(way, { line, witness, name: `${way.records}, ${way.transport}` });
    }
    return new Stage(installation, file, actors);
  }

  /** One mailing with its kills, up to its grants, and everything compared. */
  async play(round: Round, number: number): Promise<void> {
    const actor = this.#actors.get(round.way) as Actor;
    const { line, witness } = actor;
    const job = `kills-${number}`;
    const where = `round ${number} (${actor.name}; ${round.kills.map(nameOf).join(', ')})`;
    const before = witness.contradictions.length;
    try {
      const over = Promise.all(round.kills.map((kill) => this.#kill(kill, actor)));
      over.catch(() => undefined);
      const settling = this.#settled(line, job);
      settling.catch(() => undefined);
      if (!(await within(MAILING_MS_MAX, over))) {
        for (const kill of round.kills) {
          if (existsSync(this.#orderOf(actor, kill.party))) this.#violated(where, `${nameOf(kill)} was not reached`);
        }
        throw new Error('a process did not come back');
      }
      await settling;
      // What died last may have had something to do still.
      const report = await this.#settled(line, job);
      this.mailings += 1;
      await this.#compare(actor, report);
    } catch (error) {
      this.#violated(where, errorText(error));
    }
    for (const words of witness.contradictions.slice(before)) this.#violated(where, words);
    this.#note(where, takeChecks(this.#folders()));
  }

  /** Stops everything, and checks every store once more. */
  async finish(): Promise<void> {
    let pieces = 0n;
    for (const { line, name } of this.#actors.values()) {
      const { registers } = await line.device();
      pieces += BigInt(registers.pieces);
      const booked = await bookedPostageMills(line);
      if (booked !== registers.ascendingMills) {
        this.#violated(
          'the end',
          `the ledger books ${booked} for ${name}, its device debited ${registers.ascendingMills}`,
        );
      }
    }
    const counted = await authorityPieces(this.#installation);
    if (counted !== pieces) this.#violated('the end', `the authority counts ${counted} pieces, the devices ${pieces}`);
    await this.#stop();
    this.#note('the end', await checkAll(this.#folders()));
  }

  async close(): Promise<void> {
    await this.#installation.stop();
    for (const { witness } of this.#actors.values()) await witness.close();
  }

  async #stop(): Promise<void> {
    for (const { line } of this.#actors.values()) await line.stop();
    for (const party of Object.values(this.#installation.processes)) await party.stop();
  }

  #folders(): InstallationPaths[] {
    return [this.#installation.paths, ...[...this.#actors.values()].map(({ line }) => line.paths)];
  }

  #note(where: string, { count, wrong }: ReturnType<typeof takeChecks>): void {
    this.checks += count;
    for (const words of wrong) this.#violated(where, words);
  }

  #violated(where: string, words: string): void {
    this.violations.push(`${where}: ${words}`);
  }

  /** Has a process die, and resolves when it is back and was compared with what was seen of it. */
  async #kill(kill: Kill, actor: Actor): Promise<void> {
    const { line, witness } = actor;
    const victim = this.#processOf(line, kill.party);
    if (kill.at === 'point') {
      const back = victim.back();
      writeFileSync(this.#orderOf(actor, kill.party), `${kill.point.name} ${kill.times}`);
      await back;
    } else {
      await new Promise((resolve) => setTimeout(resolve, kill.afterMs));
      await victim.kill();
    }
    this.deaths.push({
      party: kill.party,
      way: actor.name,
      at: kill.at === 'point' ? kill.point.name : 'random',
    });
    const seen = witness.seen();
    const confirmed = witness.confirmations.size;
    if (kill.party === 'psd') witness.compare(await persistently(() => line.device()), seen);
    if (kill.party !== 'server') return;
    const { device } = await persistently(() => line.device());
    const { logged } = (await persistently(() =>
      askServer(line.server, 'GET', `/v1/devices/${device}/settlement`),
    )) as { logged: number };
    if (logged < confirmed) witness.contradictions.push(`${confirmed} confirmations were seen, the log has ${logged}`);
  }

  #orderOf({ line }: Actor, party: PartyName): string {
    return orderFile(party === 'psd' || party === 'host' ? line.paths : this.#installation.paths, party);
  }

  #processOf(line: Line, party: PartyName): TestProcess {
    return party === 'psd' || party === 'host' ? line.processes[party] : this.#installation.processes[party];
  }

  /** The report of the mailing when it is settled. Throws where it takes two minutes: then something does not come back. */
  async #settled(line: Line, job: string): Promise<JobReport> {
    const settling = this.#asked(line, job);
    settling.catch(() => undefined);
    if (await within(MAILING_MS_MAX, settling)) return settling;
    throw new Error('the mailing was not settled within two minutes');
  }

  /** Asks for the mailing as the command line does, until all of it is franked and settled. */
  async #asked(line: Line, job: string): Promise<JobReport> {
    let last: unknown;
    const endMs = performance.now() + MAILING_MS_MAX;
    while (performance.now() < endMs) {
      try {
        const { remaining, rejection } = await line.host.call(HOST.frank, {
          file: this.#file,
          job,
          mailingDate: MAILING_DATE,
        });
        if (rejection !== undefined && !PASSING.includes(rejection.code)) throw new Error(rejection.message);
        if (remaining > 0) continue;
        const settled = await line.host.call(HOST.wait, { job, timeoutMs: SETTLED_MS_MAX });
        if (settled.outcome === 'settled' && settled.pending.length === 0) return settled.report as JobReport;
        last = new Error(`the mailing is not settled: ${settled.outcome}, ${JSON.stringify(settled.pending)}`);
        if (settled.outcome === 'timeout') throw last;
      } catch (error) {
        const passes =
          (error instanceof Fault && error.retry !== 'never') ||
          (error instanceof Refused && PASSING.includes(error.rejection.code));
        if (!passes) throw error;
        last = error;
        await pause();
      }
    }
    throw last;
  }

  /** The mailing's report against merge file, records, device, server and what the witness saw. */
  async #compare(actor: Actor, report: JobReport): Promise<void> {
    const { line, witness } = actor;
    await expectAccounted(line, report);
    const records = [...(this.#chains.get(actor) ?? []), ...sealedRecords(report)];
    this.#chains.set(actor, records);
    const wrong = chainGaps(records);
    const { device } = await line.device();
    const batches = new Map(report.batches.map((batch) => [batch.id, batch]));
    const seen = [...witness.pieces].filter(([, { batch }]) => batches.has(batch));
    if (seen.length !== report.pieces) wrong.push(`${seen.length} pieces were seen, the report has ${report.pieces}`);
    const reported = reportedPayloads(report);
    for (const [number, { body }] of seen) {
      const own = reported.get(number);
      if (own?.startsWith(body) !== true) wrong.push(`piece ${number} was seen, and is not so in the merge file`);
    }
    for (const { sequence, digest } of report.batches) {
      if (sequence === null || digest === null) {
        wrong.push('a batch has no record');
        continue;
      }
      if (witness.digests.get(sequence) !== digest) wrong.push(`record ${sequence} is not the one that was seen`);
      const stored = await serverConfirmation(line, device, sequence);
      const given = witness.confirmations.get(digest);
      if (given !== undefined && given !== stored) wrong.push(`record ${sequence} has two confirmations`);
    }
    witness.contradictions.push(...wrong);
    this.pieces += report.pieces;
    this.records += report.batches.length;
  }
}

/** What the command line asks again after. */
const PASSING = ['try-again', 'internal-fault', 'job-conflict'];

/** The first rows of two customers of the sample mailing. */
function mailing(): string {
  const [header = '', ...rows] = readSample().trimEnd().split('\n');
  const chosen = Object.entries(PIECES).flatMap(([customer, pieces]) =>
    rows.filter((row) => row.split(',')[1] === customer).slice(0, pieces),
  );
  return [header, ...chosen].join('\n');
}

/** The payload of each piece in a job's merge files, in hex, by piece number. */
function reportedPayloads(report: JobReport): ReadonlyMap<number, string> {
  const folder = dirname(report.files.merge ?? '');
  const rows = readdirSync(folder)
    .filter((name) => /^merge.*\.csv$/.test(name))
    .flatMap((name) => parse<Record<string, string>>(readFileSync(join(folder, name), 'utf8'), { columns: true }));
  return new Map(rows.map((row) => [Number(row['piece_number']), (row['payload'] ?? '').toLowerCase()]));
}

/** The confirmation that the server keeps of a record, in hex. */
async function serverConfirmation({ server }: Line, device: string, sequence: number): Promise<string> {
  const path = `/v1/devices/${device}/records/${sequence}/confirmation`;
  const response = await fetch(new URL(path, server.url), {
    headers: { authorization: `Bearer ${server.credential}` },
  });
  if (!response.ok) throw new Error(`the server has no confirmation of record ${sequence} (${response.status})`);
  return hex(new Uint8Array(await response.arrayBuffer()));
}

/** Postage that the server's ledger books for a line's licensee, whose only device the line has. */
async function bookedPostageMills({ server, paths }: Line): Promise<bigint> {
  const { licensee } = JSON.parse(readFileSync(join(paths.run, 'host.json'), 'utf8')) as { readonly licensee: string };
  const { accounts } = (await askServer(server, 'GET', `/v1/licensees/${licensee}/accounts`)) as {
    readonly accounts: readonly { readonly account: string; readonly balanceMills: string }[];
  };
  return accounts
    .filter(({ account }) => account.startsWith('postage:'))
    .reduce((sum, { balanceMills }) => sum + BigInt(balanceMills), 0n);
}

/** All pieces that the authority counts. */
async function authorityPieces({ paths }: TestInstallation): Promise<bigint> {
  const config = JSON.parse(readFileSync(join(paths.run, 'authority.json'), 'utf8')) as {
    readonly listen: { readonly port: number };
    readonly credential: string;
  };
  const response = await fetch(`http://127.0.0.1:${config.listen.port}/v1/totals?by=licensee`, {
    headers: { authorization: `Bearer ${config.credential}` },
  });
  const { rows } = (await response.json()) as { rows: readonly { readonly pieces: string | number }[] };
  return rows.reduce((sum, { pieces }) => sum + BigInt(pieces), 0n);
}
