/**
 * A dry run: everything that franking a mailing would do, without doing it, and the discount that it may expect.
 *
 * Guarantees: debits nothing and leaves nothing in the journal. What is expected is reckoned by the published programmes, by the
 * same code as the authority's; it is no promise.
 */
import { Fault } from '@countermark/node-platform/fault';
import type { DryRunAnswer, FrankProgress, MailingOptions } from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { Currency } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { expectedDiscounts, programmesOf } from './expected-discount.ts';
import type { HostParts } from './host-parts.ts';
import type { JobRunner } from './job-runner.ts';
import type { MailingIntake } from './mailing-intake.ts';
import { statusOf } from './psd-client.ts';
import type { Readiness } from './readiness.ts';
import type { StagedRun } from './staging.ts';

export class DryRun {
  readonly #parts: HostParts;
  readonly #intake: MailingIntake;
  readonly #runner: Pick<JobRunner, 'inHand'>;
  readonly #readiness: Pick<Readiness, 'fundsWarnings'>;

  constructor(
    parts: HostParts,
    intake: MailingIntake,
    runner: Pick<JobRunner, 'inHand'>,
    readiness: Pick<Readiness, 'fundsWarnings'>,
  ) {
    this.#parts = parts;
    this.#intake = intake;
    this.#runner = runner;
    this.#readiness = readiness;
  }

  /** Rejections: those of taking the mailing; `job-conflict` while another is in hand. */
  async of(mailing: MailingOptions, progress: (event: FrankProgress) => void): Promise<Result<DryRunAnswer>> {
    const { journal, psd } = this.#parts;
    const named = await this.#intake.named(mailing);
    if (!named.ok) return named;
    const { inHand } = this.#runner;
    if (inHand !== null) return refuse(rejection('job-conflict', { job: inHand }));
    const device = await statusOf(psd);
    const taken = await this.#intake.take(mailing, named.value, device, (rows) => {
      progress({ phase: 'checking', done: rows, total: 0 });
    });
    if (!taken.ok) return taken;
    journal.runs.drop(taken.value.run);
    const { staged, errorsFile, warnings } = taken.value;
    const { currency } = this.#intake.tariffOf(mailing).tariff;
    const discounts = await this.#discounts(staged, device, currency);
    const fundsBeforeMills = device.registers.descendingMills;
    return accept({
      job: named.value.job,
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
      warnings: [...warnings, ...(await this.#readiness.fundsWarnings(staged.postageMills, currency))],
    });
  }

  /** By customer; null where the programmes cannot be had. */
  async #discounts(
    staged: StagedRun,
    device: DeviceStatus,
    currency: Currency,
  ): Promise<ReadonlyMap<string | null, bigint> | null> {
    const { config, server } = this.#parts;
    const published = await server.programmes().catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error;
      return null;
    });
    if (published?.ok !== true) return null;
    return expectedDiscounts(programmesOf(published.value), {
      groups: staged.groups,
      cells: staged.cells,
      mailingDate: staged.mailingDate,
      licensee: config.licensee,
      submitter: config.submitter,
      preparer: config.preparer,
      authentication: device.authentication,
      specimen: !device.certified,
      currency,
    });
  }
}

function dryRunCustomers(
  staged: StagedRun,
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
