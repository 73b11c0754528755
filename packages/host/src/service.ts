/**
 * The host's service: what its parts do together, as the operations of its local interface ask for it.
 *
 * Guarantees: one mailing is franked at a time; a job is the same however often it is asked for; what a crash, a stop or a refusal
 * interrupted goes on from the store. Closing the service stops franking after the chunk in hand.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import { CUSTOMER_ID, hex, type JobId, unhex } from '@countermark/protocol/id';
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import type {
  BatchReport,
  CloseParameters,
  DryRunAnswer,
  ExportAnswer,
  FrankAnswer,
  FrankParameters,
  FrankProgress,
  FundsAnswer,
  GrantReport,
  HostStatusAnswer,
  ImportAnswer,
  JobReport,
  MailingOptions,
  PendingReport,
  RefillAnswer,
  ReprintAnswer,
  ReprintParameters,
  SendAnswer,
  ShowAnswer,
  ShowParameters,
  WaitAnswer,
} from '@countermark/protocol/interfaces/host';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { mills, parseDecimalMills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { shippedTariff, type ShippedTariff } from '@countermark/tariff/shipped';
import type { KeySource } from '@countermark/verify/verified';
import { Archive, writeOnce } from './archive.ts';
import { adoptRecords, closeBatch } from './batch-closing.ts';
import type { HostConfig } from './config.ts';
import { DeviceLink } from './device-link.ts';
import { expectedDiscounts, programmesOf } from './expected-discount.ts';
import { Franking, type RunOutcome } from './franking.ts';
import { Funds } from './funds.ts';
import type { BatchRow, JobRow, Journal, RecordRow, RunRow } from './journal.ts';
import { fileDigest } from './mailing.ts';
import { type Taken, takeMailing } from './mailing-desk.ts';
import { Outbox } from './outbox.ts';
import { pieceByKey, pieceByNumber, pieceByRow } from './piece-archive.ts';
import type { PrintPort } from './print-port.ts';
import { batchesOfNumbers, type PrintingOptions, reprint, RunPrinting, runFiles } from './printing.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import {
  batchReport,
  deviceReport,
  drawReports,
  grantReport,
  isHeld,
  pieceReport,
  recordReport,
  registersReport,
  rejectionReport,
} from './report.ts';
import type { ServerClient } from './server-client.ts';
import { SessionRelay } from './session-relay.ts';
import { SettlementFollower } from './settlement.ts';

export type ServiceParts = {
  readonly config: HostConfig;
  readonly journal: Journal;
  readonly psd: PsdClient;
  readonly server: ServerClient;
  readonly keys: KeySource;
  /** Decides when holds end, and dates what is franked. */
  readonly clock: Clock;
  readonly random: () => number;
  readonly printer: PrintPort;
  readonly log: Log;
};

type Progress = (event: FrankProgress) => void;

/** The mailing in hand. */
type Active = {
  readonly job: JobId;
  readonly digest: Uint8Array | null;
  stopped: boolean;
  readonly listeners: Set<Progress>;
  outcome: Promise<Result<FrankAnswer>>;
};

const MILLIS_WAIT_DEFAULT = 300_000;
const ROOM_ATTEMPTS = 1;

export class HostService {
  readonly #parts: ServiceParts;
  readonly #link: DeviceLink;
  readonly #funds: Funds;
  readonly #outbox: Outbox;
  readonly #settlement: SettlementFollower;
  readonly #archive: Archive;
  readonly #tariff: ShippedTariff;
  readonly #printing: PrintingOptions;
  /** Jobs of which something was franked before this process was asked for them. */
  readonly #resumed = new Map<string, boolean>();
  #active: Active | null = null;
  /** Records that the device has and the journal may lack are being looked for. */
  #takingUp = false;
  #closing = false;
  readonly #ended = new AbortController();
  #news: (() => void)[] = [];

  constructor(parts: ServiceParts) {
    this.#parts = parts;
    const { config, journal, psd, server, keys, clock, random, printer, log } = parts;
    const tariff = shippedTariff(config.tariff);
    if (tariff === undefined) throw new TypeError(`The tariff ${config.tariff} is not shipped.`);
    this.#tariff = tariff;
    this.#link = new DeviceLink(psd, server, journal, config.licensee);
    this.#funds = new Funds(psd, server, journal);
    this.#archive = new Archive(journal, config.output, config.trustBundle);
    this.#settlement = new SettlementFollower({
      journal,
      psd,
      server,
      link: this.#link,
      funds: this.#funds,
      licensee: config.licensee,
      keys,
      random,
      log,
      onNews: () => {
        this.#announce();
      },
    });
    this.#outbox = new Outbox({
      journal,
      psd,
      server,
      session: config.transport === 'session' ? new SessionRelay(psd, server, config.psdSessionSocket) : null,
      hold: config.forwarding === 'hold',
      clock,
      random,
      keys,
      log,
      onConfirmed: () => {
        this.#settlement.kick();
        this.#announce();
      },
    });
    this.#printing = {
      journal,
      archive: this.#archive,
      port: printer,
      clock,
      currency: tariff.tariff.currency,
      sheet: config.sheet,
      pages: config.pages,
      licensee: config.licensee,
    };
    for (const { job } of journal.jobs()) this.#resumed.set(job, true);
  }

  /** Takes up what was interrupted: sends what waits, and goes on with a mailing that a crash cut off. */
  start(): void {
    const { journal, config, clock } = this.#parts;
    journal.forgetPieces(clock.nowMs() - config.retentionMs);
    this.#outbox.start();
    this.#takingUp = true;
    void this.#takeUp();
  }

  async #takeUp(): Promise<void> {
    const { journal, log, psd } = this.#parts;
    try {
      const device = await statusOf(psd);
      if (device.sequence > 0) await adoptRecords(this.#closingOptions());
      this.#outbox.kick();
      if (device.batch === undefined) await this.#link.enrolled();
    } catch (error) {
      if (!(error instanceof Fault)) log.error('Taking up failed', error);
      else log.warn('Taking up was put off', { reason: error.message });
    }
    this.#takingUp = false;
    this.#announce();
    this.#settlement.kick();
    const interrupted = journal.jobs().find(({ state }) => state === 'franking');
    const run = interrupted === undefined ? undefined : this.#activeRun(interrupted.job);
    if (interrupted === undefined || run === undefined || this.#active !== null || this.#closing) return;
    log.info('A mailing that was interrupted is gone on with', { job: interrupted.job });
    await this.#occupy(interrupted.job, run.fileDigest, () => this.#runJob(run, run.warnings));
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#ended.abort();
    await this.stop();
    await Promise.all([this.#outbox.close(), this.#settlement.close()]);
    this.#parts.psd.close();
  }

  // --- franking -----------------------------------------------------------------------------------------------

  /** Checks a mailing and franks what of it is not franked. */
  async frank(parameters: FrankParameters, progress: Progress): Promise<Result<FrankAnswer>> {
    const named = await this.#named(parameters);
    if (!named.ok) return named;
    const { job, digest } = named.value;
    const active = this.#active;
    if (active !== null) {
      if (active.job !== job || active.digest === null || !sameBytes(active.digest, digest)) {
        return refuse(rejection('job-conflict', { job: active.job }));
      }
      active.listeners.add(progress);
      return active.outcome;
    }
    return this.#occupy(job, digest, (mine) => this.#frankFile({ ...parameters, job }, job, digest, mine), progress);
  }

  /** Stops franking after the chunk in hand; resolves when it has. */
  async stop(): Promise<{ readonly jobs: readonly string[] }> {
    const active = this.#active;
    if (active === null) return { jobs: [] };
    active.stopped = true;
    await active.outcome.catch(() => undefined);
    return { jobs: [active.job] };
  }

  /** Makes a job the one in hand while `work` goes on. */
  #occupy(
    job: JobId,
    digest: Uint8Array | null,
    work: (active: Active) => Promise<Result<FrankAnswer>>,
    listener?: Progress,
  ): Promise<Result<FrankAnswer>> {
    const active: Active = {
      job,
      digest,
      stopped: this.#closing,
      listeners: new Set(listener === undefined ? [] : [listener]),
      outcome: Promise.resolve(refuse(rejection('unknown-job', { job }))),
    };
    this.#active = active;
    active.outcome = work(active)
      .catch((error: unknown) => {
        // The job stays where its journal says; it is taken up at the next start or command.
        const { journal } = this.#parts;
        if (journal.job(job)?.state === 'franking') journal.setJob(job, 'stopped', null);
        throw error;
      })
      .finally(() => {
        this.#active = null;
        this.#announce();
      });
    active.outcome.catch(() => undefined);
    return active.outcome;
  }

  async #named(parameters: MailingOptions): Promise<Result<{ job: JobId; digest: Uint8Array }>> {
    const digest = await fileDigest(parameters.file);
    if (!digest.ok) return digest;
    const job = (parameters.job ?? `job_${hex(digest.value).slice(0, 32)}`) as JobId;
    return accept({ job, digest: digest.value });
  }

  async #frankFile(
    parameters: FrankParameters & { readonly job: JobId },
    job: JobId,
    digest: Uint8Array,
    active: Active,
  ): Promise<Result<FrankAnswer>> {
    const { journal } = this.#parts;
    this.#resumed.set(
      job,
      journal.batchesOfJob(job).some(({ franked }) => franked > 0),
    );
    const device = await this.#link.enrolled();
    if (!device.ok) return device;
    const foreign = this.#foreignBatch(device.value, job);
    if (foreign !== null) return refuse(foreign);

    const last = journal.runs(job).at(-1);
    const known = last !== undefined && sameBytes(last.fileDigest, digest) ? last : undefined;
    if (known?.state === 'franked') {
      journal.setKeepOpen(known.run, parameters.keepOpen === true);
      return accept(await this.#answer(job, 0, null, known.warnings));
    }
    if (known?.state === 'active') {
      journal.setKeepOpen(known.run, parameters.keepOpen === true);
      journal.setJob(job, 'franking', null);
      const run = journal.run(known.run) as RunRow;
      return this.#runJob(run, run.warnings, active);
    }

    // A corrected file: first what the device franked of the old one is taken over and closed.
    const before = this.#activeRun(job);
    if (before !== undefined) {
      const finished = await this.#franking(before, active).finishOpen();
      if (!finished.ok) return finished;
    }
    const taken = await this.#take({ ...parameters, job }, digest, device.value, (rows) => {
      tell(active, { phase: 'checking', done: rows, total: 0 });
    });
    if (!taken.ok) return taken;
    const { run, staged, errorsFile, warnings } = taken.value;
    const ready = await this.#readyFor(device.value, taken.value, job);
    if (!ready.ok) {
      journal.dropRun(run);
      return ready;
    }
    if (before !== undefined) await this.#printRun(before);
    journal.activate(run, {
      job,
      tariff: this.#tariff.tariff.id,
      nowMs: this.#parts.clock.nowMs(),
      rejectedRows: staged.badRows,
      errorsFile,
      keepOpen: parameters.keepOpen === true,
    });
    return this.#runJob(journal.run(run) as RunRow, warnings, active);
  }

  /** The batch that is open at the device and not of this job, as a refusal. */
  #foreignBatch(device: DeviceStatus, job: string): Rejection | null {
    const { journal } = this.#parts;
    const open = device.batch;
    if (open === undefined) return null;
    const batch = journal.batch(open.batch);
    if (batch !== undefined && journal.jobOfBatch(batch) === job && batch.state !== 'sealed') return null;
    return rejection('batch-open', { batch: open.batch });
  }

  #take(
    mailing: MailingOptions & { readonly job: JobId },
    digest: Uint8Array,
    device: DeviceStatus | null,
    progress: (rows: number) => void,
  ): Promise<Result<Taken>> {
    const { journal, clock, config } = this.#parts;
    const options = { journal, clock, customers: config.customers, output: config.output };
    const { tariff } = this.#tariffOf(mailing);
    return takeMailing(options, mailing, digest, tariff, this.#link.policy(), device?.memory ?? null, progress);
  }

  #tariffOf(mailing: MailingOptions): ShippedTariff {
    return mailing.tariff === undefined ? this.#tariff : (shippedTariff(mailing.tariff) ?? this.#tariff);
  }

  /** Customers known and funds there, as far as that can be seen to before the first piece. */
  async #readyFor(device: DeviceStatus, { staged }: Taken, job: JobId): Promise<Result<null>> {
    const { config } = this.#parts;
    const named = [...new Set(staged.groups.map(({ customer }) => customer))];
    const customers = named.filter((customer) => customer !== null);
    let { customers: registered } = device;
    const unknown = customers.filter((customer) => !registered.includes(customer as (typeof registered)[number]));
    const [first] = unknown;
    if (first !== undefined) {
      const updated = config.registerCustomers
        ? await this.#link.register(device.device, unknown)
        : await this.#link.refreshPolicy(device.device);
      if (!updated.ok) return updated;
      registered = updated.value.customers;
      const still = unknown.find((customer) => !registered.includes(customer as (typeof registered)[number]));
      if (still !== undefined) return refuse(rejection('unknown-customer', { customer: still }));
    }
    if (named.includes(null) && registered.length > 0) return refuse(rejection('customer-missing', {}));
    if (device.funds.receivedMills === 0n && config.firstRefillMills > 0n) {
      const granted = await this.#funds.request(config.firstRefillMills, job);
      if (!granted.ok) return granted;
    }
    return accept(null);
  }

  #franking(run: RunRow, active: Active, printing?: RunPrinting): Franking {
    const { config, journal, psd, clock } = this.#parts;
    const { tariff, bytes } = shippedTariff(journal.job(run.job)?.tariff ?? config.tariff) ?? this.#tariff;
    return new Franking(
      {
        ...this.#closingOptions(),
        journal,
        psd,
        clock,
        submitter: config.submitter,
        preparer: config.preparer,
        currency: tariff.currency,
        tariffDigest: nodeVerification.sha256(bytes),
        refill: config.automaticRefill ? (missing, job) => this.#refillMissing(missing, job) : null,
        makeRoom: () => this.#makeRoom(),
        onFranked: () => printing?.notify(),
        onSealed: () => {
          this.#outbox.kick();
          printing?.notify();
        },
        progress: (event) => {
          tell(active, event);
        },
        stopped: () => active.stopped,
      },
      run,
    );
  }

  #closingOptions() {
    const { config, journal, psd, clock } = this.#parts;
    return { journal, psd, clock, holdForMs: config.forwarding === 'hold' ? config.holdForMs : null };
  }

  /** Asks for what is missing, as far as the policy lets the device hold it. */
  async #refillMissing(missingMills: bigint, job: JobId): Promise<boolean> {
    const { registers } = await statusOf(this.#parts.psd);
    const highestMills = this.#link.policy()?.highestFundsMills;
    const roomMills = highestMills === undefined ? missingMills : highestMills - registers.descendingMills;
    const amountMills = [missingMills - registers.descendingMills, roomMills].reduce((a, b) => (a < b ? a : b));
    if (amountMills <= 0n) return false;
    const granted = await this.#funds.request(amountMills, job);
    return granted.ok && granted.value.amountMills > 0n;
  }

  /** Sends what may be sent, so that a full device has room again. */
  async #makeRoom(): Promise<boolean> {
    for (let attempt = 0; attempt < ROOM_ATTEMPTS; attempt++) {
      const { confirmed } = await this.#outbox.send();
      if (confirmed > 0) return true;
    }
    return false;
  }

  async #runJob(run: RunRow, warnings: readonly string[], active = this.#active): Promise<Result<FrankAnswer>> {
    const { journal } = this.#parts;
    if (active === null) throw new TypeError('No job is in hand.');
    const { job } = run;
    const before = this.#frankedOf(job);
    const printing = new RunPrinting(this.#printing, run);
    let outcome: RunOutcome;
    try {
      outcome = await this.#franking(run, active, printing).frank();
    } catch (error) {
      await printing.abandon();
      throw error;
    }
    const franked = this.#frankedOf(job) - before;
    if (outcome.state === 'done') {
      const total = run.keepOpen ? this.#frankedOf(job) : 0;
      tell(active, { phase: 'printing', done: printing.printed, total });
      await printing.finish();
      journal.setRun(run.run, 'franked');
      journal.setJob(job, 'done', null);
      return accept(await this.#answer(job, franked, null, warnings));
    }
    await printing.abandon();
    const refused = outcome.state === 'waiting' ? outcome.rejection : null;
    journal.setJob(job, outcome.state, refused);
    return accept(await this.#answer(job, franked, refused, warnings));
  }

  /** Prints what was franked of a run that ends here. */
  async #printRun(run: RunRow): Promise<void> {
    const { journal } = this.#parts;
    if (run.printed || journal.batchesOfRun(run.run).every(({ franked }) => franked === 0)) return;
    await new RunPrinting(this.#printing, run).finish();
  }

  #frankedOf(job: string): number {
    return this.#parts.journal.batchesOfJob(job).reduce((sum, { franked }) => sum + franked, 0);
  }

  #remainingOf(job: string): number {
    const run = this.#activeRun(job);
    if (run === undefined) return 0;
    return this.#parts.journal
      .batchesOfRun(run.run)
      .reduce((sum, { expected, franked }) => sum + expected - franked, 0);
  }

  #activeRun(job: string): RunRow | undefined {
    return this.#parts.journal.runs(job).find(({ state }) => state === 'active');
  }

  async #answer(
    job: JobId,
    franked: number,
    refused: Rejection | null,
    warnings: readonly string[],
  ): Promise<FrankAnswer> {
    const { state } = this.#parts.journal.job(job) as JobRow;
    return {
      job,
      state,
      franked,
      remaining: this.#remainingOf(job),
      ...(refused === null ? {} : { rejection: rejectionReport(refused) }),
      warnings,
      report: await this.#report(job),
    };
  }

  /** Everything that franking a mailing would do, without doing it. */
  async dryRun(parameters: MailingOptions, progress: Progress): Promise<Result<DryRunAnswer>> {
    const { journal, config, psd, server } = this.#parts;
    const named = await this.#named(parameters);
    if (!named.ok) return named;
    const { job, digest } = named.value;
    if (this.#active !== null) return refuse(rejection('job-conflict', { job: this.#active.job }));
    const device = await statusOf(psd);
    const taken = await this.#take({ ...parameters, job }, digest, device, (rows) => {
      progress({ phase: 'checking', done: rows, total: 0 });
    });
    if (!taken.ok) return taken;
    journal.dropRun(taken.value.run);
    const { staged, errorsFile, warnings } = taken.value;
    const { currency } = this.#tariffOf(parameters).tariff;
    const mailing = {
      groups: staged.groups,
      cells: staged.cells,
      mailingDate: staged.mailingDate,
      licensee: config.licensee,
      submitter: config.submitter,
      preparer: config.preparer,
      authentication: device.authentication,
      specimen: !device.certified,
      currency,
    };
    const published = await server.programmes().catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error;
      return null;
    });
    const discounts = published?.ok === true ? expectedDiscounts(programmesOf(published.value), mailing) : null;
    const fundsBeforeMills = device.registers.descendingMills;
    return accept({
      job,
      currency: currency.code,
      exponent: currency.exponent,
      pieces: staged.pieces,
      postageMills: String(staged.postageMills),
      frankedBefore: staged.frankedBefore,
      rejectedRows: staged.badRows,
      ...(errorsFile === null ? {} : { errors: errorsFile }),
      customers: dryRunCustomers(staged, discounts),
      fundsBeforeMills: String(fundsBeforeMills),
      fundsAfterMills: String(fundsBeforeMills - staged.postageMills),
      warnings,
    });
  }

  // --- batches ------------------------------------------------------------------------------------------------

  batches(job: string | undefined): Result<{ readonly batches: readonly BatchReport[] }> {
    const { journal, clock } = this.#parts;
    const rows = job === undefined ? journal.batches() : journal.batchesOfJob(job);
    if (job !== undefined && journal.job(job) === undefined) return refuse(rejection('unknown-job', { job }));
    return accept({
      batches: rows.filter(wasOpened).map((batch) => batchReport(journal, batch, clock.nowMs())),
    });
  }

  async show(parameters: ShowParameters): Promise<Result<ShowAnswer>> {
    const { journal, clock, psd } = this.#parts;
    const { pieceNumber, pieceRef, row, job = journal.lastJob() ?? '' } = parameters;
    const place =
      pieceNumber !== undefined
        ? pieceByNumber(journal, pieceNumber)
        : pieceRef !== undefined
          ? pieceByKey(journal, job, pieceRef)
          : row !== undefined
            ? pieceByRow(journal, job, row)
            : undefined;
    if (place === null) {
      return refuse(rejection('unknown-piece', { pieceNumber: pieceNumber ?? pieceRef ?? `of row ${String(row)}` }));
    }
    if (place !== undefined) {
      const device = await statusOf(psd);
      return accept({
        batch: batchReport(journal, place.batch, clock.nowMs()),
        piece: pieceReport(journal, device, place),
      });
    }
    const batch = journal.batch(parameters.batch ?? '');
    if (batch === undefined) return refuse(rejection('unknown-batch', { batch: parameters.batch ?? '' }));
    return accept({ batch: batchReport(journal, batch, clock.nowMs()) });
  }

  /** Declares pieces of the open batch spoiled. */
  async spoil(numbers: readonly number[]): Promise<Result<BatchReport>> {
    const { journal, psd, clock } = this.#parts;
    const device = await statusOf(psd);
    const open = device.batch;
    if (open === undefined) return refuse(rejection('no-open-batch', { batch: '(none)' }));
    const spoiled = await psd.call(PSD.spoil, { batch: open.batch, pieceNumbers: numbers });
    if (!spoiled.ok) return spoiled;
    const batch = this.#adopted(device) as BatchRow;
    journal.setSpoiled(
      batch.batch,
      [...new Set([...batch.spoiled, ...numbers])].sort((a, b) => a - b),
    );
    return accept(batchReport(journal, journal.batch(batch.id) as BatchRow, clock.nowMs()));
  }

  /** The row of the batch at the device; made where the journal was lost. */
  #adopted(device: DeviceStatus): BatchRow | null {
    const { journal } = this.#parts;
    const open = device.batch;
    if (open === undefined) return null;
    return (
      journal.batch(open.batch) ??
      journal.adoptBatch(open.batch, open.customer ?? null, open.pieces, open.postageMills, open.firstPieceNumber)
    );
  }

  /** Closes and seals a batch; `incomplete` where its piece records are gone for good. */
  async closeBatch({ batch: id, incomplete = false }: CloseParameters): Promise<Result<BatchReport>> {
    const { journal, psd, clock } = this.#parts;
    if (this.#active !== null) return refuse(rejection('job-conflict', { job: this.#active.job }));
    const device = await statusOf(psd);
    const batch = id === undefined ? this.#adopted(device) : (journal.batch(id) ?? this.#adoptedAs(device, id));
    if (batch === null) {
      return refuse(
        id === undefined ? rejection('no-open-batch', { batch: '(none)' }) : rejection('unknown-batch', { batch: id }),
      );
    }
    if (batch.state !== 'sealed') {
      const closed = await closeBatch(this.#closingOptions(), batch, device, incomplete);
      if (!closed.ok) return closed;
      this.#outbox.kick();
    }
    return accept(batchReport(journal, journal.batch(batch.id) as BatchRow, clock.nowMs()));
  }

  #adoptedAs(device: DeviceStatus, id: string): BatchRow | null {
    return device.batch?.batch === id ? this.#adopted(device) : null;
  }

  /** Prints pieces again. Nothing is debited; reprints of a batch that is not closed are declared in its record. */
  async reprint({ batch: id, numbers }: ReprintParameters): Promise<Result<ReprintAnswer>> {
    const { journal } = this.#parts;
    let batches: readonly { readonly batch: BatchRow; readonly numbers: ReadonlySet<number> | null }[];
    if (id !== undefined) {
      const batch = journal.batch(id);
      if (batch === undefined) return refuse(rejection('unknown-batch', { batch: id }));
      batches = [{ batch, numbers: null }];
    } else {
      const parsed = parseNumbers(numbers ?? []);
      if (!parsed.ok) return parsed;
      const grouped = batchesOfNumbers(journal, parsed.value);
      if (!grouped.ok) return grouped;
      batches = grouped.value;
    }
    const printed = await reprint(this.#printing, batches);
    if (!printed.ok) return printed;
    for (const { batch, numbers: some } of batches) {
      const now = journal.batch(batch.id) as BatchRow;
      journal.addReprints(batch.batch, some?.size ?? batch.franked, now.state !== 'open');
    }
    return printed;
  }

  // --- statistics ---------------------------------------------------------------------------------------------

  statistics() {
    const { journal, clock } = this.#parts;
    const { nextAttemptMs } = this.#outbox;
    return {
      records: journal.records().map((record) => recordReport(journal, record, clock.nowMs(), nextAttemptMs)),
    };
  }

  async send(): Promise<SendAnswer> {
    const { journal, clock } = this.#parts;
    const outcome = await this.#outbox.send();
    const { nextAttemptMs } = this.#outbox;
    const waiting = journal
      .records()
      .filter(({ state }) => state !== 'confirmed')
      .map((record) => recordReport(journal, record, clock.nowMs(), nextAttemptMs));
    this.#settlement.kick();
    return {
      sent: outcome.sent,
      confirmed: outcome.confirmed,
      waiting,
      ...(outcome.trouble === null ? {} : { reason: outcome.trouble }),
    };
  }

  /** Writes the records that wait and whose hold has ended into a folder, for another machine to bring to the server. */
  async exportRecords(directory: string): Promise<Result<ExportAnswer>> {
    const { journal, psd, config, clock } = this.#parts;
    const device = await statusOf(psd);
    const due = this.#outbox.due(1_000_000);
    const held = journal.records().filter((record) => isHeld(record, clock.nowMs())).length;
    try {
      mkdirSync(directory, { recursive: true });
      const files: string[] = [];
      for (const record of due) {
        const own = config.forwarding === 'hold' ? null : await psd.call(PSD.record, { sequence: record.sequence });
        const name = `${device.device}-${String(record.sequence).padStart(10, '0')}.record.cose`;
        writeOnce(join(directory, name), own?.ok === true ? own.value.record : record.bytes);
        files.push(name);
      }
      return accept({ directory, files, held });
    } catch (error) {
      return refuse(rejection('file-unreadable', { file: directory, reason: errorText(error) }));
    }
  }

  /** Brings record files of a folder to the server through this machine, and writes what it answers beside them. */
  async importRecords(directory: string): Promise<Result<ImportAnswer>> {
    const files = filesOf(directory, '.record.cose');
    if (!files.ok) return files;
    const results: ImportAnswer['results'][number][] = [];
    const most = 64;
    for (let from = 0; from < files.value.length; from += most) {
      const some = files.value.slice(from, from + most);
      const answers = await this.#parts.server.submit(some.map((file) => readFileSync(join(directory, file))));
      if (!answers.ok) return answers;
      for (const [i, file] of some.entries()) {
        const answer = answers.value[i];
        const stem = file.slice(0, -'.record.cose'.length);
        const written: string[] = [];
        for (const [kind, bytes] of [
          ['confirmation', answer?.confirmation],
          ['attestation', answer?.attestation],
        ] as const) {
          if (bytes === undefined) continue;
          writeOnce(join(directory, `${stem}.${kind}.cose`), bytes);
          written.push(`${stem}.${kind}.cose`);
        }
        results.push({
          file,
          outcome: answer?.rejection?.code ?? answer?.outcome ?? 'unanswered',
          ...(answer?.rejection === undefined ? {} : { message: rejectionReport(answer.rejection).message }),
          files: written,
        });
      }
    }
    return accept({ directory, read: files.value.length, results });
  }

  /** Gives confirmation files to the PSD, and archives the attestations beside them. */
  async importConfirmations(directory: string): Promise<Result<ImportAnswer>> {
    const { journal, clock } = this.#parts;
    const files = filesOf(directory, '.confirmation.cose');
    if (!files.ok) return files;
    const results: ImportAnswer['results'][number][] = [];
    for (const file of files.value) {
      const bytes = readFileSync(join(directory, file));
      const envelope = parseEnvelope(bytes);
      const said = envelope.ok ? parsePayload(CONFIRMATION, envelope.value) : envelope;
      const record = said.ok ? journal.record(said.value.sequence) : undefined;
      const given = said.ok ? await this.#outbox.confirm(bytes) : said;
      if (given.ok && record !== undefined) {
        const beside = join(directory, file.replace('.confirmation.', '.attestation.'));
        const attestation = existsSync(beside) ? this.#outbox.attestation(record, readFileSync(beside)) : null;
        journal.settleAttempt(
          [],
          null,
          [{ sequence: record.sequence, confirmation: bytes, attestation }],
          clock.nowMs(),
        );
      }
      results.push({
        file,
        outcome: given.ok ? 'confirmed' : given.rejection.code,
        ...(given.ok ? {} : { message: rejectionReport(given.rejection).message }),
      });
    }
    this.#settlement.kick();
    this.#announce();
    return accept({ directory, read: files.value.length, results });
  }

  // --- funds, grants, device ----------------------------------------------------------------------------------

  async funds(): Promise<FundsAnswer> {
    return this.#fundsOf(await statusOf(this.#parts.psd));
  }

  #fundsOf(device: DeviceStatus): FundsAnswer {
    const { code, exponent } = device.currency ?? this.#tariff.tariff.currency;
    return {
      ...registersReport(device.registers),
      receivedMills: String(device.funds.receivedMills),
      returnedMills: String(device.funds.returnedMills),
      lastGrant: device.funds.lastGrant,
      pendingRequest: device.pendingFundsRequest ?? null,
      currency: code,
      exponent,
    };
  }

  /** Asks for funds: an amount in currency units, or in mills. */
  async refill(amount: string | undefined, amountMills: string | undefined): Promise<Result<RefillAnswer>> {
    const { exponent } = this.#tariff.tariff.currency;
    const asked = amountMills === undefined ? parseDecimalMills(amount ?? '', exponent) : mills(BigInt(amountMills));
    if (asked === null) {
      return refuse(rejection('usage', { reason: `${amount ?? ''} is no amount such as 250.00.` }));
    }
    const enrolled = await this.#link.enrolled();
    if (!enrolled.ok) return enrolled;
    const granted = await this.#funds.request(asked, this.#parts.journal.lastJob());
    if (!granted.ok) return granted;
    const { amountMills: grantedMills, draws, refusal } = granted.value;
    return accept({
      grantedMills: String(grantedMills),
      draws: draws.map((draw) => ({ customer: draw.customer ?? null, amountMills: String(draw.amountMills) })),
      refusal: refusal ?? null,
      funds: await this.funds(),
    });
  }

  grants(): { readonly grants: readonly GrantReport[] } {
    return { grants: this.#parts.journal.grants().map(grantReport) };
  }

  grant(digest: string): Result<GrantReport> {
    const bytes = unhex(digest);
    const row = bytes === null ? undefined : this.#parts.journal.grant(bytes);
    return row === undefined ? refuse(rejection('unknown-grant', { grant: digest })) : accept(grantReport(row));
  }

  async device() {
    return deviceReport(await statusOf(this.#parts.psd));
  }

  async enrol(customers: readonly string[]) {
    const wrong = customers.find((customer) => !CUSTOMER_ID.test(customer));
    if (wrong !== undefined) return refuse(rejection('usage', { reason: `${wrong} is no customer's id.` }));
    const enrolled = await this.#link.enrolled();
    if (!enrolled.ok) return enrolled;
    const { device } = enrolled.value;
    const updated =
      customers.length === 0 ? await this.#link.refreshPolicy(device) : await this.#link.register(device, customers);
    return updated.ok ? accept(deviceReport(updated.value)) : updated;
  }

  async status(): Promise<HostStatusAnswer> {
    const { config, journal, psd, server } = this.#parts;
    const [device, reachable] = await Promise.all([
      statusOf(psd, 1_000).catch((error: unknown) => errorText(error)),
      server.health().then(
        () => null,
        (error: unknown) => errorText(error),
      ),
    ]);
    const known = typeof device === 'string' ? null : device;
    const deadlines = [
      { what: 'warns' as const, atMs: known?.warnsAtMs },
      { what: 'locks' as const, atMs: known?.locksAtMs },
    ].flatMap(({ what, atMs }) => (atMs === undefined ? [] : [{ what, atMs }]));
    return {
      host: {
        licensee: config.licensee,
        transport: config.transport,
        forwarding: config.forwarding,
        holdForMs: config.holdForMs,
        jobs: journal.jobs().map(({ job, state }) => ({
          job,
          state,
          pieces: this.#frankedOf(job),
          remaining: this.#remainingOf(job),
        })),
      },
      device: known === null ? null : deviceReport(known),
      server: { url: server.url, reachable: reachable === null, ...(reachable === null ? {} : { reason: reachable }) },
      ...(typeof device === 'string' ? { unreachable: device } : {}),
      pending: this.#pending(undefined),
      deadlines,
      backup: [
        { path: config.data, why: 'the host’s store: piece records, archived records, confirmations and grants' },
        { path: config.output, why: 'the jobs’ files: indicia, merge files, records' },
        { path: config.trustBundle, why: 'the public keys on which every check stands' },
      ],
    };
  }

  // --- reports ------------------------------------------------------------------------------------------------

  async job(job: string): Promise<Result<JobReport>> {
    if (this.#parts.journal.job(job) === undefined) return refuse(rejection('unknown-job', { job }));
    return accept(await this.#report(job as JobId));
  }

  async #report(job: JobId): Promise<JobReport> {
    const { journal, clock, config, psd } = this.#parts;
    const nowMs = clock.nowMs();
    this.#archive.layOut(job);
    const row = journal.job(job) as JobRow;
    const { currency } = (shippedTariff(row.tariff) ?? this.#tariff).tariff;
    const batches = journal
      .batchesOfJob(job)
      .filter(wasOpened)
      .map((batch) => batchReport(journal, batch, nowMs));
    const grants = journal.grantsOfJob(job).map(grantReport);
    const runs = journal.runs(job);
    const printed = runs.filter((run) => run.printed).at(-1);
    const files = printed === undefined ? null : runFiles(this.#archive, printed, config.pages);
    const device = await statusOf(psd);
    return {
      schema: 1,
      currency: currency.code,
      exponent: currency.exponent,
      job,
      resumed: this.#resumed.get(job) ?? false,
      pieces: batches.reduce((sum, { pieces }) => sum + pieces, 0),
      postageMills: String(batches.reduce((sum, { postageMills }) => sum + BigInt(postageMills), 0n)),
      batches,
      discounts: grants.filter(({ kind }) => kind === 'discount'),
      credits: grants.filter(({ kind }) => kind === 'credit'),
      draws: drawReports(journal.fundsGrantsOfJob(job)),
      registers: registersReport(device.registers),
      pending: this.#pending(job),
      rejectedRows: row.rejectedRows,
      files: {
        indicia: files?.indicia ?? null,
        merge: files?.merge ?? null,
        records: this.#archive.recordsFolder(job),
        ...(row.errorsFile === null ? {} : { errors: row.errorsFile }),
      },
    };
  }

  /** What of a job, or of all, is not done, and why. */
  #pending(job: string | undefined): PendingReport[] {
    const { journal, clock } = this.#parts;
    const nowMs = clock.nowMs();
    const pending: PendingReport[] = [];
    for (const row of journal.jobs()) {
      if (job !== undefined && row.job !== job) continue;
      const remaining = this.#remainingOf(row.job);
      if (remaining > 0 || row.refusal !== null) {
        const reason = row.refusal?.code ?? row.state;
        const message = row.refusal === null ? undefined : rejectionReport(row.refusal).message;
        pending.push({ what: 'pieces', count: remaining, reason, ...(message === undefined ? {} : { message }) });
      }
    }
    const batches = job === undefined ? journal.batches() : journal.batchesOfJob(job);
    let confirmedThrough = 0;
    const addRecord = (record: RecordRow): void => {
      if (record.state === 'confirmed') {
        confirmedThrough = Math.max(confirmedThrough, record.sequence);
        return;
      }
      const held = isHeld(record, nowMs);
      pending.push({
        what: record.sent ? 'confirmation' : 'record',
        ...(record.batch === null ? {} : { batch: record.batch }),
        sequence: record.sequence,
        reason: held ? 'held' : (record.reason ?? this.#outbox.trouble ?? record.state),
        ...(held && record.holdUntilMs !== null ? { untilMs: record.holdUntilMs } : {}),
      });
    };
    for (const batch of batches) {
      if (!wasOpened(batch)) continue;
      if (batch.state !== 'sealed') {
        pending.push({ what: 'batch', batch: batch.id, reason: batch.state });
        continue;
      }
      const record = journal.recordOfBatch(batch.id);
      if (record !== undefined) addRecord(record);
    }
    if (job === undefined) {
      // After a journal was lost: records that only the device had kept, of batches that nothing else is known of.
      for (const record of journal.records()) {
        if (record.batch === null || journal.batch(record.batch) === undefined) addRecord(record);
      }
    }
    if (!this.#settlement.settled(confirmedThrough)) {
      pending.push({ what: 'grants', reason: this.#settlement.trouble ?? 'evaluating' });
    }
    return pending;
  }

  /** Waits until everything of a job (or of all) is confirmed and its grants have arrived, or cannot by waiting. */
  async wait(job: string | undefined, timeoutMs = MILLIS_WAIT_DEFAULT): Promise<Result<WaitAnswer>> {
    const { journal } = this.#parts;
    if (job !== undefined && journal.job(job) === undefined && this.#active?.job !== job) {
      return refuse(rejection('unknown-job', { job }));
    }
    const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#ended.signal]);
    const answer = async (outcome: WaitAnswer['outcome']): Promise<Result<WaitAnswer>> =>
      accept({
        outcome,
        report: job !== undefined && journal.job(job) !== undefined ? await this.#report(job as JobId) : null,
        pending: this.#pending(job),
      });
    for (;;) {
      // Before the look, so that news between look and wait are not lost.
      const news = this.#nextNews(deadline);
      const busy = job === undefined ? this.#takingUp || this.#active !== null : this.#active?.job === job;
      if (!busy) {
        const pending = this.#pending(job);
        if (pending.length === 0) return answer('settled');
        // Grants of what was confirmed are still awaited; what is held is not.
        const awaited = pending.filter(({ reason }) => reason !== 'held' && !isBlocked(reason));
        const others = awaited.filter(({ what }) => what !== 'pieces' && what !== 'batch');
        if (others.length === 0) return answer(pending.some(({ reason }) => reason === 'held') ? 'hold' : 'blocked');
      }
      if (deadline.aborted) return answer('timeout');
      await news;
    }
  }

  #announce(): void {
    const news = this.#news;
    this.#news = [];
    for (const tellOne of news) tellOne();
  }

  async #nextNews(deadline: AbortSignal): Promise<void> {
    const enough = new AbortController();
    this.#news.push(() => {
      enough.abort();
    });
    // Reasons change without news, too.
    await systemClock.sleep(500, AbortSignal.any([deadline, enough.signal]));
  }
}

function tell(active: Active, event: FrankProgress): void {
  for (const listener of active.listeners) listener(event);
}

function wasOpened(batch: BatchRow): boolean {
  return batch.state === 'sealed' || batch.state === 'closed' || batch.state === 'open';
}

/** Whether waiting cannot help: someone must act. */
function isBlocked(reason: string): boolean {
  return ['fork', 'inconsistent', 'bad-authenticator', 'confirmation-mismatch', 'quarantined'].includes(reason);
}

/** Numbers and ranges: `12`, `20-25`. Rejection: `usage`. */
export function parseNumbers(texts: readonly string[]): Result<readonly number[]> {
  const numbers = new Set<number>();
  for (const text of texts.flatMap((one) => one.split(','))) {
    const match = /^(\d{1,10})(?:-(\d{1,10}))?$/.exec(text.trim());
    const from = Number(match?.[1]);
    const to = Number(match?.[2] ?? match?.[1]);
    if (match === null || from < 1 || to < from || to - from >= 10_000 || to > 0xffff_ffff) {
      return refuse(rejection('usage', { reason: `${text} is no piece number, or range such as 20-25.` }));
    }
    for (let number = from; number <= to; number++) numbers.add(number);
  }
  if (numbers.size === 0) return refuse(rejection('usage', { reason: 'No piece number is given.' }));
  return accept([...numbers].sort((a, b) => a - b));
}

function filesOf(directory: string, ending: string): Result<readonly string[]> {
  try {
    return accept(
      readdirSync(directory)
        .filter((file) => file.endsWith(ending))
        .sort(),
    );
  } catch (error) {
    return refuse(rejection('file-unreadable', { file: directory, reason: errorText(error) }));
  }
}

function dryRunCustomers(
  staged: Taken['staged'],
  discounts: ReadonlyMap<string | null, bigint> | null,
): DryRunAnswer['customers'] {
  type Level = { product: string; level: string; pieces: number; postageMills: bigint; differenceMills: bigint };
  const customers = new Map<string | null, Map<string, Level>>();
  for (const group of staged.groups) {
    const levels = customers.get(group.customer) ?? new Map<string, Level>();
    customers.set(group.customer, levels);
    for (const [number, pieces] of group.cells) {
      const cell = staged.cells[number];
      if (cell === undefined) continue;
      const { product, level } = cell.key;
      const name = `${product} ${level}`;
      const sums = levels.get(name) ?? { product, level, pieces: 0, postageMills: 0n, differenceMills: 0n };
      sums.pieces += pieces;
      sums.postageMills += cell.affixedMills * BigInt(pieces);
      sums.differenceMills += (cell.affixedMills - cell.declaredMills) * BigInt(pieces);
      levels.set(name, sums);
    }
  }
  return [...customers].map(([customer, levels]) => {
    const all = [...levels.values()];
    const differenceMills = all.reduce((sum, level) => sum + level.differenceMills, 0n);
    const expected = discounts === null ? null : (discounts.get(customer) ?? 0n);
    return {
      customer,
      pieces: all.reduce((sum, level) => sum + level.pieces, 0),
      postageMills: String(all.reduce((sum, level) => sum + level.postageMills, 0n)),
      expectedDiscountMills: expected === null ? null : String(expected),
      levels: all.map(({ product, level, pieces, postageMills, differenceMills: difference }) => ({
        product,
        level,
        pieces,
        postageMills: String(postageMills),
        differenceMills: String(difference),
        // A level's share of the customer's discount, by its share of the difference; rounded down each.
        expectedDiscountMills:
          expected === null ? null : String(differenceMills === 0n ? 0n : (expected * difference) / differenceMills),
      })),
    };
  });
}
