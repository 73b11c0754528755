/**
 * `countermark funds report`: what the device used and has, whether its registers are those of the funds it received, the deposit, and
 * the receipt of every refill.
 *
 * Guarantees: the check of the Control Sum is exact, and says by how much it fails; what cannot be had (a device or a server that
 * does not answer, receipts of before the host's store) is named as missing, never left out in silence.
 */
import type { DrawReport, FundsReceipt, FundsReportAnswer } from '@countermark/protocol/interfaces/host';
import type { Currency } from '@countermark/protocol/money';
import { amountText, countText, customerText, section, timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { style } from './terminal.ts';

/** All of it, as `--json` prints it. */
export type FundsReport = Omit<FundsReportAnswer, 'next'> & {
  /** Whether Used and Available together are what was received less what was returned; null where the device is away. */
  readonly controlSumRight: boolean | null;
  /** The licensee's deposit; null where the server does not say. */
  readonly depositMills: string | null;
  /** What could not be had, in sentences for people. */
  readonly missing: readonly string[];
};

/** The report, of the host's pages and of what the server says of the deposit. */
export function fundsReport(
  pages: readonly FundsReportAnswer[],
  deposit: { readonly mills: string } | { readonly problem: string },
): FundsReport {
  const [first] = pages;
  if (first === undefined) throw new TypeError('a funds report has a first page');
  const { next: _, ...head } = first;
  const receipts = pages.flatMap((page) => page.receipts);
  const { funds, unreachable } = head;
  const missing: string[] = [];
  if (funds === null)
    missing.push(`Used, Available, Control Sum and Pieces: the device does not answer (${unreachable ?? ''}).`);
  if ('problem' in deposit) missing.push(`The deposit: ${deposit.problem}.`);
  const currency = { code: head.currency, exponent: head.exponent };
  if (funds !== null) {
    const receiptsMills = receipts.reduce(
      (sum, { taken, amountMills }) => sum + (taken ? BigInt(amountMills) : 0n),
      0n,
    );
    const without = BigInt(funds.receivedMills) - receiptsMills;
    if (without !== 0n) {
      missing.push(
        `Receipts of ${currency.code} ${amountText(without, currency)}: this host does not have them (its store is newer than they are); the server's ledger has.`,
      );
    }
  }
  return {
    ...head,
    receipts,
    controlSumRight: funds === null ? null : controlSumRight(funds),
    depositMills: 'mills' in deposit ? deposit.mills : null,
    missing,
  };
}

function controlSumRight(funds: NonNullable<FundsReportAnswer['funds']>): boolean {
  const controlMills = BigInt(funds.ascendingMills) + BigInt(funds.descendingMills);
  return controlMills === BigInt(funds.receivedMills) - BigInt(funds.returnedMills);
}

/** The report for people. */
export function fundsReportText(report: FundsReport): string {
  const currency = { code: report.currency, exponent: report.exponent };
  const amount = (mills: string): string => `${currency.code} ${amountText(mills, currency)}`;
  const { funds, automatic, depositMills, missing } = report;
  const pairs: (readonly [string, string])[] = [];
  if (funds !== null) {
    pairs.push(
      ['Used', amount(funds.ascendingMills)],
      ['Available', amount(funds.descendingMills)],
      ['Control Sum', `${amount(funds.controlTotalMills)}, ${controlWords(report, amount)}`],
      ['Pieces', countText(funds.pieces)],
    );
    if (funds.pendingRequest !== null) {
      pairs.push(['Waiting', `request ${funds.pendingRequest}: it is completed at the next connection, once`]);
    }
  }
  if (depositMills !== null) pairs.push(['Deposit', amount(depositMills)]);
  if (automatic !== null) {
    const asks = `below ${amount(automatic.belowMills)} to ${amount(automatic.toMills)}`;
    const { refused } = automatic;
    pairs.push([
      'Automatic refill',
      refused === null ? asks : `${asks}; refused ${timeText(refused.atMs)}: ${refused.reason}`,
    ]);
  }
  const parts = [section('Funds', formatPairs(pairs)), section('Refills', receiptTable(report.receipts, currency))];
  if (missing.length > 0) parts.push(section('Missing', missing.join('\n')));
  return parts.join('\n\n');
}

function controlWords({ funds, controlSumRight: right }: FundsReport, amount: (mills: string) => string): string {
  if (funds === null) return '';
  const received = `received ${amount(funds.receivedMills)} less returned ${amount(funds.returnedMills)}`;
  return right === true ? `as it should be: ${received}` : `WRONG: it should be ${received}`;
}

function receiptTable(receipts: readonly FundsReceipt[], currency: Currency): string {
  if (receipts.length === 0) return 'None yet.';
  return formatTable(
    [
      { heading: 'Number', right: true },
      { heading: 'Date' },
      { heading: `Amount ${currency.code}`, right: true },
      { heading: 'From deposit', right: true },
      { heading: 'Credits drawn', right: true },
      { heading: 'Outcome' },
    ],
    receipts.map((receipt) => [
      String(receipt.number),
      timeText(receipt.grantedAtMs),
      amountText(receipt.amountMills, currency),
      amountText(receipt.depositMills, currency),
      amountText(sumOf(receipt.draws), currency),
      outcome(receipt, currency),
    ]),
    { emphasis: style.bold },
  );
}

function outcome({ refusal, taken, draws }: FundsReceipt, currency: Currency): string {
  if (refusal !== null) return `refused: ${refusal}`;
  const of = draws.map(({ customer, amountMills }) => `${customerText(customer)} ${amountText(amountMills, currency)}`);
  const drawn = of.length === 0 ? '' : `; credits of ${of.join(', ')}`;
  return `${taken ? 'granted' : 'granted, not in the device yet: it is asked for again'}${drawn}`;
}

function sumOf(draws: readonly DrawReport[]): bigint {
  return draws.reduce((sum, { amountMills }) => sum + BigInt(amountMills), 0n);
}
