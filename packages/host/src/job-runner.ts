/**
 * The runner of jobs: the mailing in hand, taken in, franked, printed and answered for.
 *
 * Guarantees: one mailing is franked at a time; a job is the same however often it is asked for; what a crash, a stop or a refusal
 * interrupted goes on from the journal. Closing stops franking after the chunk in hand.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import type { JobId } from '@countermark/protocol/id';
import type { FrankAnswer, FrankParameters, FrankProgress } from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { shippedTariff } from '@countermark/tariff/shipped';
import type { ClosingOptions } from './batch-closing.ts';
import type { AutomaticRefill } from './automatic-refill.ts';
import type { DeviceLink } from './device-link.ts';
import { Franking, type RunOutcome } from './franking.ts';
import type { Funds } from './funds.ts';
import type { RatedParts } from './host-parts.ts';
import { activeRun, piecesFranked, piecesRemaining } from './job-progress.ts';
import type { JobReports } from './job-reports.ts';
import type { JobRow, RunRow } from './journal-rows.ts';
import type { MailingIntake, NamedMailing } from './mailing-intake.ts';
import type { News } from './news.ts';
import type { Outbox } from './outbox.ts';
import { type PrintingOptions, RunPrinting } from './printing.ts';
import { foreignBatch, type Readiness } from './readiness.ts';
import { rejectionReport } from './report.ts';

type Progress = (event: FrankProgress) => void;

/** The mailing in hand. */
type Active = {
  readonly job: JobId;
  readonly digest: Uint8Array;
  stopped: boolean;
  readonly listeners: Set<Progress>;
  outcome: Promise<Result<FrankAnswer>>;
};

export type JobRunnerOptions = {
  readonly parts: RatedParts;
  readonly closing: ClosingOptions;
  readonly printing: PrintingOptions;
  readonly link: DeviceLink;
  readonly funds: Funds;
  readonly automatic: AutomaticRefill;
  readonly intake: MailingIntake;
  readonly readiness: Readiness;
  readonly outbox: Outbox;
  readonly reports: JobReports;
  readonly news: News;
};

export class JobRunner {
  readonly #options: JobRunnerOptions;
  #active: Active | null = null;
  #closing = false;

  constructor(options: JobRunnerOptions) {
    this.#options = options;
  }

  /** The job that is being franked now, or null. */
  get inHand(): JobId | null {
    return this.#active?.job ?? null;
  }

  /** Checks a mailing and franks what of it is not franked. */
  async frank(mailing: FrankParameters, progress: Progress): Promise<Result<FrankAnswer>> {
    const named = await this.#options.intake.named(mailing);
    if (!named.ok) return named;
    const { job, digest } = named.value;
    const active = this.#active;
    if (active !== null) {
      if (active.job !== job || !sameBytes(active.digest, digest)) {
        return refuse(rejection('job-conflict', { job: active.job }));
      }
      active.listeners.add(progress);
      return active.outcome;
    }
    return this.#occupy(named.value, (mine) => this.#frankFile(mailing, named.value, mine), progress);
  }

  /** Goes on with a mailing that a crash cut off, unless one is in hand. */
  async resume(): Promise<void> {
    const { journal, log } = this.#options.parts;
    const interrupted = journal.jobs.all().find(({ state }) => state === 'franking');
    const run = interrupted === undefined ? undefined : activeRun(journal, interrupted.job);
    if (run === undefined || this.#active !== null || this.#closing) return;
    log.info('A mailing that was interrupted is gone on with', { job: run.job });
    await this.#occupy({ job: run.job, digest: run.fileDigest }, (mine) => this.#runJob(run, run.warnings, mine));
  }

  /** Stops franking after the chunk in hand; resolves when it has. */
  async stop(): Promise<{ readonly jobs: readonly string[] }> {
    const active = this.#active;
    if (active === null) return { jobs: [] };
    active.stopped = true;
    await active.outcome.catch(() => undefined);
    return { jobs: [active.job] };
  }

  async close(): Promise<void> {
    this.#closing = true;
    await this.stop();
  }

  /** Makes a job the one in hand while `work` goes on. */
  #occupy(
    { job, digest }: NamedMailing,
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
        const { journal } = this.#options.parts;
        if (journal.jobs.get(job)?.state === 'franking') journal.jobs.set(job, 'stopped', null);
        throw error;
      })
      .finally(() => {
        this.#active = null;
        this.#options.news.announce();
      });
    active.outcome.catch(() => undefined);
    return active.outcome;
  }

  async #frankFile(mailing: FrankParameters, named: NamedMailing, active: Active): Promise<Result<FrankAnswer>> {
    const { link, reports, parts, automatic } = this.#options;
    const { journal } = parts;
    const { job, digest } = named;
    automatic.renew();
    const keepOpen = mailing.keepOpen === true;
    reports.asked(job);
    const device = await link.enrolled();
    if (!device.ok) return device;
    const foreign = foreignBatch(journal, device.value, job);
    if (foreign !== null) return refuse(foreign);

    const last = journal.runs.ofJob(job).at(-1);
    const known = last !== undefined && sameBytes(last.fileDigest, digest) ? last : undefined;
    if (known?.state === 'franked') {
      journal.runs.setKeepOpen(known.run, keepOpen);
      journal.runs.finish(known.run);
      return accept(await this.#answer(job, 0, null, known.warnings));
    }
    if (known?.state === 'active') {
      // A server that was restored from a backup may have forgotten them since the mailing was begun.
      const named = new Set(journal.batches.ofRun(known.run).map(({ customer }) => customer));
      const customers = await this.#options.readiness.customers(device.value, [...named]);
      if (!customers.ok) return customers;
      journal.runs.setKeepOpen(known.run, keepOpen);
      journal.jobs.set(job, 'franking', null);
      return this.#runJob(journal.runs.get(known.run) as RunRow, known.warnings, active);
    }
    return this.#frankNew(mailing, named, device.value, active);
  }

  /** A file that is read for the first time: new, or corrected. */
  async #frankNew(
    mailing: FrankParameters,
    named: NamedMailing,
    device: DeviceStatus,
    active: Active,
  ): Promise<Result<FrankAnswer>> {
    const { parts, intake, readiness } = this.#options;
    const { journal, clock, tariff } = parts;
    const { job } = named;
    // A corrected file: first what the device franked of the old one is taken over and closed.
    const before = activeRun(journal, job);
    if (before !== undefined) {
      const finished = await this.#franking(before, active).finishOpen();
      if (!finished.ok) return finished;
    }
    const taken = await intake.take(mailing, named, device, (rows) => {
      tell(active, { phase: 'checking', done: rows, total: 0 });
    });
    if (!taken.ok) return taken;
    const { run, staged, errorsFile, warnings } = taken.value;
    const ready = await readiness.readyFor(device, staged, job);
    if (!ready.ok) {
      journal.runs.drop(run);
      return ready;
    }
    if (before !== undefined) await this.#printRun(before);
    journal.runs.activate(run, {
      job,
      tariff: tariff.tariff.id,
      nowMs: clock.nowMs(),
      rejectedRows: staged.badRows,
      errorsFile,
      keepOpen: mailing.keepOpen === true,
    });
    const funds = await readiness.fundsWarnings(staged.postageMills, intake.tariffOf(mailing).tariff.currency);
    if (funds.length > 0) tell(active, { phase: 'checking', done: taken.value.rows, total: 0, warnings: funds });
    return this.#runJob(journal.runs.get(run) as RunRow, [...warnings, ...funds], active);
  }

  async #runJob(run: RunRow, warnings: readonly string[], active: Active): Promise<Result<FrankAnswer>> {
    const { journal } = this.#options.parts;
    const { job } = run;
    const before = piecesFranked(journal, job);
    // Before the print begins, which goes through the batches that there are.
    const carried = await this.#franking(run, active).carryOver();
    if (!carried.ok) {
      journal.jobs.set(job, 'waiting', carried.rejection);
      return accept(await this.#answer(job, 0, carried.rejection, warnings));
    }
    const printing = new RunPrinting(this.#options.printing, run);
    let outcome: RunOutcome;
    try {
      outcome = await this.#franking(run, active, printing).frank();
    } catch (error) {
      await printing.abandon();
      throw error;
    }
    const franked = piecesFranked(journal, job) - before;
    if (outcome.state === 'done') {
      const total = run.keepOpen ? piecesFranked(journal, job) : 0;
      tell(active, { phase: 'printing', done: printing.printed, total });
      await printing.finish();
      journal.runs.finish(run.run);
      return accept(await this.#answer(job, franked, null, warnings));
    }
    await printing.abandon();
    const refused = outcome.state === 'waiting' ? outcome.rejection : null;
    journal.jobs.set(job, outcome.state, refused);
    return accept(await this.#answer(job, franked, refused, warnings));
  }

  #franking(run: RunRow, active: Active, printing?: RunPrinting): Franking {
    const { parts, closing, link, funds, automatic, outbox } = this.#options;
    const { config, journal } = parts;
    const { tariff, bytes } = shippedTariff(journal.jobs.get(run.job)?.tariff ?? config.tariff) ?? parts.tariff;
    return new Franking(
      {
        ...closing,
        submitter: config.submitter,
        preparer: config.preparer,
        currency: tariff.currency,
        tariffDigest: nodeVerification.sha256(bytes),
        refill: config.automaticRefill
          ? (neededMills, job) => funds.requestMissing(neededMills, link.policy()?.highestFundsMills ?? null, job)
          : (_neededMills, job) => automatic.usedUp(job),
        debited: (postageMills) => automatic.franked(postageMills, run.job),
        makeRoom: async () => (await outbox.send()).confirmed > 0,
        onFranked: () => printing?.notify(),
        onSealed: () => {
          outbox.kick();
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

  /** Prints what was franked of a run that ends here. */
  async #printRun(run: RunRow): Promise<void> {
    const { journal } = this.#options.parts;
    if (run.printed || journal.batches.ofRun(run.run).every(({ franked }) => franked === 0)) return;
    await new RunPrinting(this.#options.printing, run).finish();
  }

  async #answer(
    job: JobId,
    franked: number,
    refused: Rejection | null,
    warnings: readonly string[],
  ): Promise<FrankAnswer> {
    const { parts, reports, automatic } = this.#options;
    const refill = automatic.refusal === null ? [] : [refillWarning(automatic.refusal)];
    const { state } = parts.journal.jobs.get(job) as JobRow;
    return {
      job,
      state,
      franked,
      remaining: piecesRemaining(parts.journal, job),
      ...(refused === null ? {} : { rejection: rejectionReport(refused) }),
      warnings: [...warnings, ...refill],
      report: await reports.of(job),
    };
  }
}

function refillWarning(reason: string): string {
  return `An automatic refill was not granted (${reason}). Franking goes on with what the device has; the host asks again when that is used up, with the next mailing, or after countermark funds refill AMOUNT.`;
}

function tell(active: Active, event: FrankProgress): void {
  for (const listener of active.listeners) listener(event);
}
