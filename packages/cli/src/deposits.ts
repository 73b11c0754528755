/**
 * What an operator of the server does with licensees' deposits: money in, money out, and the postage of spoiled pieces.
 *
 * Guarantees: a payment stands under a key, so that it is booked once however often the command is given; where none is named one is
 * made and said before anything is asked.
 */
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { type Currency, formatMills, parseDecimalMills } from '@countermark/protocol/money';
import { carryOut } from './command.ts';
import { refuseUsage } from './failure.ts';
import { askServer, type ServerAccess } from './registration.ts';
import { operatorAccess, type OperatorOptions, withOperator } from './server-operator.ts';
import { amountText, customerText, timeText } from './summary.ts';
import { formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type PaymentOptions = OperatorOptions & { readonly key?: string };
type Moved = { readonly ref: string; readonly amountMills: string; readonly balanceMills: string };
type Spoiled = {
  readonly device: string;
  readonly sequence: number;
  readonly customer: string | null;
  readonly amountMills: string;
  readonly refundAfterMs: number;
  readonly settled: string;
  readonly settledAtMs: number | null;
  readonly reason: string;
};

/** Declares the commands below `funds`. */
export function declareDeposits(funds: Command): void {
  declarePayment(
    funds,
    'deposit',
    'deposits',
    'Books a payment of a licensee into its deposit, as an operator of the server.',
    'countermark funds deposit lic_demo-bureau 2500.00 --key bank-2026-11-30',
  );
  declarePayment(
    funds,
    'payout',
    'payouts',
    'Books a payment out of a deposit to its licensee, as an operator of the server; never more than the deposit holds.',
    'countermark funds payout lic_demo-bureau 400.00 --key payout-17',
  );

  withOperator(
    funds
      .command('spoiled')
      .description(
        'Lists the postage of spoiled pieces of confirmed batches: it goes back to the deposit when the scan window has passed, or is withheld.',
      )
      .argument('<licensee>', 'lic_...'),
    ['countermark funds spoiled lic_demo-bureau'],
  ).action(async (licensee: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const path = `/v1/licensees/${encodeURIComponent(licensee)}/spoiled-postage?limit=1000`;
      const answer = (await askServer(await operatorAccess(options), 'GET', path)) as {
        readonly currency: Currency;
        readonly spoiled: readonly Spoiled[];
      };
      if (options.json === true) printJson(answer);
      else if (answer.spoiled.length === 0) print('No spoiled postage of a confirmed batch.');
      else print(spoiledTable(answer.spoiled, answer.currency));
      return undefined;
    });
  });

  withOperator(
    funds
      .command('withhold')
      .description(
        'Withholds the spoiled postage of a record for good, as long as it is not paid back: a piece of it was scanned, for instance.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .argument('<record>', 'its number (sequence) at the device')
      .requiredOption('--reason <text>', 'why; it stands with the acts of the device'),
    ['countermark funds withhold psd_0123456789abcdef 17 --reason "piece 1204 was scanned in Boston"'],
  ).action(async (device: string, record: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      if (!/^[1-9]\d{0,9}$/.test(record)) refuseUsage(`${record} is no number of a record.`);
      const path = `/v1/devices/${encodeURIComponent(device)}/records/${record}/spoiled-postage/withholding`;
      const { reason } = options;
      const withheld = (await askServer(await operatorAccess(options), 'POST', path, { reason })) as Spoiled;
      if (options.json === true) printJson(withheld);
      else print(`The spoiled postage of record ${record} of ${device} is withheld: ${withheld.reason}`);
      return undefined;
    });
  });
}

function declarePayment(
  funds: Command,
  name: 'deposit' | 'payout',
  path: 'deposits' | 'payouts',
  description: string,
  example: string,
): void {
  withOperator(
    funds
      .command(name)
      .description(description)
      .argument('<licensee>', 'lic_...')
      .argument('<amount>', 'in currency units, for instance 250.00')
      .option('--key <key>', 'your name for this payment: under it, it is booked once (default: one is made)'),
    [example],
  ).action(async (licensee: string, amount: string, options: PaymentOptions) => {
    await carryOut(options, async () => {
      const access = await operatorAccess(options);
      const currency = await currencyOf(access);
      const amountMills = parseDecimalMills(amount, currency.exponent);
      if (amountMills === null || amountMills === 0n) refuseUsage(`${amount} is no amount such as 250.00.`);
      const key = options.key ?? randomUUID();
      if (options.key === undefined)
        note(`The key of this payment: ${key}. Where the answer is lost, ask again with --key ${key}.`);
      const to = `/v1/licensees/${encodeURIComponent(licensee)}/${path}`;
      const moved = (await askServer(access, 'POST', to, { amountMills: String(amountMills) }, key)) as Moved;
      if (options.json === true) printJson({ ...moved, key });
      else {
        const how = name === 'deposit' ? 'paid into' : 'paid out of';
        print(
          `${formatMills(amountMills, currency)} ${how} the deposit of ${licensee}, which holds ${formatMills(BigInt(moved.balanceMills), currency)}.`,
        );
      }
      return undefined;
    });
  });
}

/** The server says in which currency it reckons with every list of devices. */
async function currencyOf(access: ServerAccess): Promise<Currency> {
  const { currency } = (await askServer(access, 'GET', '/v1/devices?limit=1')) as { readonly currency: Currency };
  return currency;
}

function spoiledTable(spoiled: readonly Spoiled[], currency: Currency): string {
  return formatTable(
    [
      { heading: 'Device' },
      { heading: 'Record', right: true },
      { heading: 'Customer' },
      { heading: `Spoiled ${currency.code}`, right: true },
      { heading: 'Outcome' },
    ],
    spoiled.map((one) => [
      one.device,
      String(one.sequence),
      customerText(one.customer),
      amountText(one.amountMills, currency),
      outcome(one),
    ]),
    { emphasis: style.bold },
  );
}

function outcome({ settled, settledAtMs, refundAfterMs, reason }: Spoiled): string {
  if (settled === 'waiting') return `comes back after ${timeText(refundAfterMs)}`;
  const at = settledAtMs === null ? '' : ` ${timeText(settledAtMs)}`;
  return settled === 'refunded' ? `paid back${at}` : `withheld${at}: ${reason}`;
}
