/**
 * The host's service: its parts put together, each desk an entry of the local interface.
 *
 * Guarantees: what a crash, a stop or a refusal interrupted is taken up from the store at the start. Closing stops franking after
 * the chunk in hand, ends every wait, and leaves nothing running.
 */
import type { HostStatusAnswer } from '@countermark/protocol/interfaces/host';
import { shippedTariff } from '@countermark/tariff/shipped';
import { Archive } from './archive.ts';
import { AutomaticRefill } from './automatic-refill.ts';
import { adoptRecords } from './batch-closing.ts';
import { BatchesDesk } from './batches-desk.ts';
import { DeviceDesk } from './device-desk.ts';
import { DeviceEnd } from './device-end.ts';
import { DeviceLink } from './device-link.ts';
import { DryRun } from './dry-run.ts';
import { Funds } from './funds.ts';
import { FundsDesk } from './funds-desk.ts';
import { GrantsDesk } from './grants-desk.ts';
import type { HostParts, RatedParts } from './host-parts.ts';
import { hostStatus } from './host-status.ts';
import { JobReports } from './job-reports.ts';
import { JobRunner } from './job-runner.ts';
import { MailingIntake } from './mailing-intake.ts';
import { News } from './news.ts';
import { Outbox } from './outbox.ts';
import { PendingWork } from './pending-work.ts';
import { Readiness } from './readiness.ts';
import { Refeeding } from './refeeding.ts';
import { Rotation } from './rotation.ts';
import { SessionRelay } from './session-relay.ts';
import { SettlementFollower } from './settlement.ts';
import { StatisticsDesk } from './statistics-desk.ts';
import { TakingUp } from './taking-up.ts';
import { Waiting } from './waiting.ts';

export class HostService {
  readonly runner: JobRunner;
  readonly dryRun: DryRun;
  readonly batches: BatchesDesk;
  readonly statistics: StatisticsDesk;
  readonly funds: FundsDesk;
  readonly grants: GrantsDesk;
  readonly device: DeviceDesk;
  readonly rotation: Rotation;
  readonly reports: JobReports;
  readonly waiting: Waiting;
  readonly #parts: RatedParts;
  readonly #takingUp: TakingUp;
  readonly #outbox: Outbox;
  readonly #settlement: SettlementFollower;
  readonly #pending: PendingWork;
  readonly #automatic: AutomaticRefill;

  constructor(given: HostParts) {
    const { config, journal, psd, server, keys, clock, random, printer, log } = given;
    const tariff = shippedTariff(config.tariff);
    if (tariff === undefined) throw new TypeError(`The tariff ${config.tariff} is not shipped.`);
    const parts = { ...given, tariff };
    this.#parts = parts;
    const news = new News();
    const archive = new Archive(journal, config.output, config.trustBundle);
    const link = new DeviceLink(psd, server, journal, config.licensee, keys);
    const funds = new Funds(psd, server, journal, keys, () => link.reintroduce());
    const automatic = new AutomaticRefill({
      belowMills: config.refillBelowMills,
      toMills: config.refillToMills,
      psd,
      funds,
      highestMills: () => link.policy()?.highestFundsMills ?? null,
      clock,
      log,
    });
    const closing = { journal, psd, clock, holdForMs: config.forwarding === 'hold' ? config.holdForMs : null };
    const settlement = new SettlementFollower({
      journal,
      psd,
      server,
      link,
      funds,
      refeeding: new Refeeding({ journal, server, funds, keys, clock }),
      licensee: config.licensee,
      keys,
      random,
      log,
      adopt: async () => {
        await adoptRecords(closing);
        outbox.kick();
      },
      goOnEnding: (status) => ending.goOn(status),
      onNews: () => {
        news.announce();
      },
    });
    const outbox: Outbox = new Outbox({
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
        settlement.kick();
        news.announce();
      },
      reintroduce: () => link.reintroduce(),
    });
    const printing = {
      journal,
      archive,
      port: printer,
      clock,
      currency: tariff.tariff.currency,
      sheet: config.sheet,
      pages: config.pages,
      licensee: config.licensee,
    };
    const pending = new PendingWork(parts, outbox, settlement);
    const reports = new JobReports(parts, archive, pending);
    const intake = new MailingIntake(parts, link);
    const readiness = new Readiness(parts, link, funds);
    const runner = new JobRunner({
      parts,
      closing,
      printing,
      link,
      funds,
      automatic,
      intake,
      readiness,
      outbox,
      reports,
      news,
    });
    const takingUp = new TakingUp({ log, closing, link, outbox, settlement, runner, news });

    this.#takingUp = takingUp;
    this.#outbox = outbox;
    this.#settlement = settlement;
    this.#pending = pending;
    this.#automatic = automatic;
    this.reports = reports;
    this.runner = runner;
    this.dryRun = new DryRun(parts, intake, runner, readiness);
    this.batches = new BatchesDesk(closing, printing, outbox, runner);
    const ending: DeviceEnd = new DeviceEnd({ closing, batches: this.batches, runner, outbox, archive });
    this.statistics = new StatisticsDesk(parts, outbox, settlement, news);
    this.funds = new FundsDesk(parts, link, funds, automatic);
    this.grants = new GrantsDesk(journal);
    this.device = new DeviceDesk(psd, link);
    this.rotation = new Rotation({ closing, link, funds, outbox, archive });
    this.waiting = new Waiting({ journal, news, pending, reports, runner, takingUp });
  }

  /** Takes up what was interrupted: sends what waits, and goes on with a mailing that a crash cut off. */
  start(): void {
    const { journal, config, clock } = this.#parts;
    journal.chunks.forget(clock.nowMs() - config.retentionMs);
    void this.#takingUp.start();
  }

  status(): Promise<HostStatusAnswer> {
    return hostStatus(this.#parts, this.#pending, this.#automatic);
  }

  async close(): Promise<void> {
    this.waiting.close();
    await this.runner.close();
    await Promise.all([this.#outbox.close(), this.#settlement.close()]);
    this.#parts.psd.close();
  }
}
