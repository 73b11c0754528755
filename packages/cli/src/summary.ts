/**
 * Reports of the host as text for people: a job's summary, batches, grants, funds, what waits.
 *
 * Guarantees: the figures are the report's own, only added up by customer here, exactly; amounts stand under a heading that names
 * the currency. Net is postage less discount less credit; a credit is worth its amount once its customer franks again.
 */
import type {
  BatchReport,
  FundsAnswer,
  GrantReport,
  JobReport,
  PendingReport,
  RegistersReport,
} from '@countermark/protocol/interfaces/host';
import { type Currency, decimalMills } from '@countermark/protocol/money';
import { formatPairs, formatTable } from './table.ts';
import { style } from './terminal.ts';

const BATCH_CHARACTERS = 'bat_'.length + 8;

/** How an amount stands in a table whose heading names the currency. */
export function amountText(amount: string | bigint, currency: Currency): string {
  return decimalMills(BigInt(amount), currency.exponent, true);
}

/** A count with separators. */
export function countText(count: number): string {
  return decimalMills(BigInt(count), 0, true);
}

/** Who a batch or grant is for; the licensee's own has no customer. */
export function customerText(customer: string | null): string {
  return customer ?? '(own mail)';
}

/** A point of time, in UTC, to the second. */
export function timeText(timeMs: number): string {
  return new Date(timeMs)
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, ' UTC');
}

/** The whole summary of a job. */
export function jobSummary(report: JobReport): string {
  const currency = { code: report.currency, exponent: report.exponent };
  const parts = [
    `${style.bold(`Job ${report.job}`)}: ${countText(report.pieces)} pieces, ${currency.code} ${amountText(report.postageMills, currency)}${report.resumed ? ' (resumed: franked before, nothing twice)' : ''}${report.rejectedRows === 0 ? '' : `; ${countText(report.rejectedRows)} rows rejected`}`,
    section('Batches and their records', batchTable(report.batches, currency)),
    section('By customer', customerTable(report, currency)),
  ];
  const grants = [...report.discounts, ...report.credits];
  if (grants.length > 0) parts.push(section('Discounts and credits, and why', grantLines(grants, currency)));
  if (report.draws.length > 0) {
    const lines = report.draws.map(
      ({ customer, amountMills }) => `${customerText(customer)}: ${currency.code} ${amountText(amountMills, currency)}`,
    );
    parts.push(section("Credits drawn by their customers' own postage, paid into the PSD", lines.join('\n')));
  }
  parts.push(section('Registers of the device', registerLines(report.registers, currency)));
  if (report.pending.length > 0) parts.push(section('Waiting', pendingLines(report.pending)));
  parts.push(
    section(
      'Files',
      formatPairs([
        ['Pages', report.files.indicia ?? '(none)'],
        ['Merge file', report.files.merge ?? '(none)'],
        ['Records', report.files.records],
        ...(report.files.errors === undefined ? [] : [['Rejected rows', report.files.errors] as const]),
      ]),
    ),
  );
  return parts.join('\n\n');
}

/** Batches: what was franked for whom, and how far its record has come. */
export function batchTable(batches: readonly BatchReport[], currency: Currency): string {
  return formatTable(
    [
      { heading: 'Batch' },
      { heading: 'Customer' },
      { heading: 'Product' },
      { heading: 'Pieces', right: true },
      { heading: `Postage ${currency.code}`, right: true },
      { heading: 'Record', right: true },
      { heading: 'State' },
      { heading: 'In the PSD' },
    ],
    batches.map((batch) => [
      batch.id.slice(0, BATCH_CHARACTERS),
      customerText(batch.customer),
      batch.product,
      countText(batch.pieces),
      amountText(batch.postageMills, currency),
      batch.sequence === null ? '' : String(batch.sequence),
      `${STATES[batch.state]}${batch.incomplete ? ', incomplete' : ''}`,
      batch.sequence === null ? '' : batch.deletedFromPsd ? 'deleted' : 'kept',
    ]),
    {
      emphasis: style.bold,
      ...(batches.length < 2
        ? {}
        : {
            total: [
              'Total',
              '',
              '',
              countText(batches.reduce((sum, { pieces }) => sum + pieces, 0)),
              amountText(sum(batches.map(({ postageMills }) => postageMills)), currency),
            ],
          }),
    },
  );
}

const STATES = {
  open: 'open',
  closed: 'closed',
  held: 'held',
  sent: 'sent',
  confirmed: 'authenticated, confirmed',
  quarantined: 'quarantined',
} as const;

function customerTable(report: JobReport, currency: Currency): string {
  const customers = [
    ...new Set([...report.batches, ...report.discounts, ...report.credits].map((item) => item.customer)),
  ];
  const rows = customers.map((customer) => {
    const of = <T extends { readonly customer: string | null }>(items: readonly T[]): T[] =>
      items.filter((item) => item.customer === customer);
    const postage = sum(of(report.batches).map((batch) => batch.postageMills));
    const discount = sum(of(report.discounts).map((grant) => grant.amountMills));
    const credit = sum(of(report.credits).map((grant) => grant.amountMills));
    const pieces = of(report.batches).reduce((total, batch) => total + batch.pieces, 0);
    return { customer, pieces, amounts: [postage, discount, credit, postage - discount - credit] };
  });
  const total = [0, 1, 2, 3].map((i) => rows.reduce((amount, row) => amount + (row.amounts[i] ?? 0n), 0n));
  return formatTable(
    [
      { heading: 'Customer' },
      ...['Pieces', 'Postage', 'Discount', 'Credit', 'Net'].map((heading) => ({
        heading: heading === 'Pieces' ? heading : `${heading} ${currency.code}`,
        right: true,
      })),
    ],
    rows.map(({ customer, pieces, amounts }) => [
      customerText(customer),
      countText(pieces),
      ...amounts.map((amount) => amountText(amount, currency)),
    ]),
    {
      emphasis: style.bold,
      total: [
        'Total',
        countText(rows.reduce((pieces, row) => pieces + row.pieces, 0)),
        ...total.map((amount) => amountText(amount, currency)),
      ],
    },
  );
}

/** Grants, each with its reckoning. */
export function grantLines(grants: readonly GrantReport[], currency: Currency): string {
  return grants
    .map((grant) =>
      [
        `${grant.kind} ${style.bold(`${currency.code} ${amountText(grant.amountMills, currency)}`)} for ${customerText(grant.customer)}, ${grant.programme} (${grant.period}, revision ${grant.revision})${grant.demonstration ? ', a demonstration' : ''}`,
        ...grant.reasons.map((reason) => `  ${reason}`),
      ].join('\n'),
    )
    .join('\n');
}

/** The registers, in the words of a funds report. */
export function registerLines(registers: RegistersReport, currency: Currency): string {
  return formatPairs(registerPairs(registers, currency));
}

function registerPairs(registers: RegistersReport, currency: Currency): [string, string][] {
  const amount = (value: string): string => `${currency.code} ${amountText(value, currency)}`;
  return [
    ['Used', amount(registers.ascendingMills)],
    ['Available', amount(registers.descendingMills)],
    ['Control total', amount(registers.controlTotalMills)],
    ['Pieces', countText(registers.pieces)],
  ];
}

/** The funds report of a device. */
export function fundsLines(funds: FundsAnswer): string {
  const currency = { code: funds.currency, exponent: funds.exponent };
  return formatPairs([
    ...registerPairs(funds, currency),
    ['Received', `${currency.code} ${amountText(funds.receivedMills, currency)}`],
    ['Returned', `${currency.code} ${amountText(funds.returnedMills, currency)}`],
    ['Last refill', `request ${funds.lastGrant}`],
    ...(funds.pendingRequest === null ? [] : [['Waiting', `request ${funds.pendingRequest}`] as const]),
  ]);
}

/** What is not done yet, and why. */
export function pendingLines(pending: readonly PendingReport[]): string {
  return pending
    .map(({ what, batch, sequence, count, reason, untilMs, message }) =>
      [
        what,
        ...(sequence === undefined ? [] : [what === 'record' ? String(sequence) : `record ${sequence}`]),
        ...(batch === undefined ? [] : [batch.slice(0, BATCH_CHARACTERS)]),
        ...(count === undefined ? [] : [`(${countText(count)})`]),
        `- ${message ?? reason}`,
        ...(untilMs === undefined ? [] : [`until ${timeText(untilMs)}`]),
      ].join(' '),
    )
    .join('\n');
}

/** A heading and what stands below it. */
export function section(heading: string, body: string): string {
  return `${style.underline(heading)}\n${body}`;
}

function sum(amounts: readonly string[]): bigint {
  return amounts.reduce((total, amount) => total + BigInt(amount), 0n);
}
