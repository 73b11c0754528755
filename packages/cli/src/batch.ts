/**
 * `countermark batch`: an example of a mailing, franking one, and what can be done with a batch.
 */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import {
  type BatchReport,
  type DryRunAnswer,
  HOST,
  type MailingOptions,
  type ShowAnswer,
} from '@countermark/protocol/interfaces/host';
import { EXIT } from '@countermark/protocol/rejection';
import { carryOut, errorObject, SAMPLE_MAILING, type SharedOptions, tell, userPath, withShared } from './command.ts';
import { Refused } from './failure.ts';
import { type HostClient, withHost } from './host-client.ts';
import { Progress } from './progress.ts';
import { amountText, batchTable, countText, customerText, jobSummary, section } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type FrankOptions = SharedOptions & {
  readonly job?: string;
  readonly acceptGood?: boolean;
  readonly encoding?: string;
  readonly mailingDate?: string;
  readonly dryRun?: boolean;
  readonly keepOpen?: boolean;
};

/** Declares the commands. */
export function declare(program: Command): void {
  const batch = program.command('batch').summary('frank a mailing; list, show, spoil, close, reprint');
  batch.description('Batches of mail: what they are made from, franking them, and what can be done with them.');

  withShared(
    batch
      .command('template')
      .description('Prints an example of a mailing as CSV: the columns, and a row of each product.')
      .option('--one', 'without the column customer'),
    ['countermark batch template > mailing.csv'],
  ).action(async (options: SharedOptions & { readonly one?: boolean }) => {
    await carryOut(options, async () => {
      const customers = options.one !== true;
      const csv = await withHost(userPath(options.data), (host) => host.call(HOST.template, { customers })).then(
        (answer) => answer.csv,
        (error: unknown) => {
          // An example is wanted before anything is started.
          if (error instanceof Refused && error.rejection.code === 'not-running') return sampleTemplate(customers);
          throw error;
        },
      );
      if (options.json === true) printJson({ csv });
      else process.stdout.write(csv);
      return undefined;
    });
  });

  withShared(
    batch
      .command('frank')
      .description(
        'Checks a whole CSV file, then franks it, grouped by customer and product: a batch each. One bad row and nothing is franked, unless --accept-good is given; FILE.errors.csv says what is wrong. Asked again, it franks only what was not franked.',
      )
      .argument('<file>', 'CSV file; see countermark batch template')
      .option('--job <id>', "the job's id (default: the file's digest)")
      .option('--accept-good', 'frank the good rows where others are wrong')
      .option('--encoding <name>', 'encoding of the file, for instance windows-1252 (default: UTF-8)')
      .option('--mailing-date <day>', 'day of mailing, for instance 2026-11-23')
      .option('--keep-open', 'leave the last batch open, so that pieces can be declared spoiled')
      .option('--dry-run', 'frank nothing: pieces, postage and expected discount, funds before and after'),
    [
      'countermark batch frank mailing.csv --dry-run',
      'countermark batch frank mailing.csv --job november',
      'countermark batch frank export.csv --encoding windows-1252 --accept-good',
    ],
  ).action(async (file: string, options: FrankOptions) => {
    await carryOut(options, () => withHost(userPath(options.data), (host) => frank(host, file, options)));
  });

  withShared(
    batch
      .command('list')
      .description('Lists the batches with their records.')
      .option('--job <id>', 'only those of this job'),
    ['countermark batch list', 'countermark batch list --job november --json'],
  ).action(async (options: SharedOptions & { readonly job?: string }) => {
    await onHost(options, async (host) => {
      const { batches } = await host.call(HOST.batches, options.job === undefined ? {} : { job: options.job });
      const { currency, exponent } = await host.call(HOST.funds, {});
      if (options.json === true) printJson({ batches });
      else print(batches.length === 0 ? 'No batches yet.' : batchTable(batches, { code: currency, exponent }));
    });
  });

  withShared(
    batch
      .command('show')
      .description('Shows a batch (the open one, where none is named) with its rate cells, or one of its pieces.')
      .argument('[batch]', "the batch's id, or its beginning")
      .option('--piece <number>', 'the piece of this number', wholeNumber)
      .option('--ref <key>', 'the piece with this piece_ref')
      .option('--row <number>', "the piece of this row of the job's file", wholeNumber)
      .option('--job <id>', 'the job that --ref or --row belongs to'),
    [
      'countermark batch show bat_12ab34cd',
      'countermark batch show --piece 1204',
      'countermark batch show --ref A-0001 --json',
    ],
  ).action(
    async (
      id: string | undefined,
      options: SharedOptions & {
        readonly piece?: number;
        readonly ref?: string;
        readonly row?: number;
        readonly job?: string;
      },
    ) => {
      await onHost(options, async (host) => {
        const shown = await host.call(HOST.batch, {
          ...(id === undefined ? {} : { batch: await wholeId(host, id) }),
          ...(options.piece === undefined ? {} : { pieceNumber: options.piece }),
          ...(options.ref === undefined ? {} : { pieceRef: options.ref }),
          ...(options.row === undefined ? {} : { row: options.row }),
          ...(options.job === undefined ? {} : { job: options.job }),
        });
        const { currency, exponent } = await host.call(HOST.funds, {});
        if (options.json === true) printJson(shown);
        else print(shownText(shown, { code: currency, exponent }));
      });
    },
  );

  withShared(
    batch
      .command('spoil')
      .description(
        'Declares pieces of the open batch spoiled, by number: they are in its record, and earn nothing. Frank with --keep-open first.',
      )
      .argument('<numbers...>', 'piece numbers or ranges'),
    ['countermark batch spoil 1204', 'countermark batch spoil 12 20-25'],
  ).action(async (numbers: string[], options: SharedOptions) => {
    await onHost(options, async (host) => {
      tellBatch(await host.call(HOST.spoil, { numbers }), options);
    });
  });

  withShared(
    batch
      .command('close')
      .description('Closes a batch (the open one, where none is named): it is sealed into its record.')
      .argument('[batch]', "the batch's id, or its beginning")
      .option(
        '--incomplete',
        'close it though its piece records are gone for good: it keeps its totals and earns no grant',
      ),
    ['countermark batch close', 'countermark batch close bat_12ab34cd --incomplete'],
  ).action(async (id: string | undefined, options: SharedOptions & { readonly incomplete?: boolean }) => {
    await onHost(options, async (host) => {
      const closed = await host.call(HOST.close, {
        ...(id === undefined ? {} : { batch: await wholeId(host, id) }),
        ...(options.incomplete === undefined ? {} : { incomplete: options.incomplete }),
      });
      tellBatch(closed, options);
    });
  });

  withShared(
    batch
      .command('reprint')
      .description(
        'Makes pages of a batch, or of pieces, again, without the spoiled ones; nothing is debited a second time. Before closing it is counted in the record.',
      )
      .argument('[batch]', "the batch's id, or its beginning")
      .option('--pieces <numbers...>', 'only these piece numbers or ranges'),
    ['countermark batch reprint bat_12ab34cd', 'countermark batch reprint --pieces 12 20-25'],
  ).action(async (id: string | undefined, options: SharedOptions & { readonly pieces?: string[] }) => {
    await onHost(options, async (host) => {
      const made = await host.call(HOST.reprint, {
        ...(id === undefined ? {} : { batch: await wholeId(host, id) }),
        ...(options.pieces === undefined ? {} : { numbers: options.pieces }),
      });
      if (options.json === true) printJson(made);
      else print(`${countText(made.pieces)} ${made.pieces === 1 ? 'piece' : 'pieces'} in ${made.file}`);
    });
  });
}

/** The sample mailing's header and its first row of each product and level. */
function sampleTemplate(customers: boolean): string {
  const [header = '', ...rows] = readFileSync(SAMPLE_MAILING, 'utf8').trimEnd().split('\n');
  const columns = header.split(',');
  // No column before these has a separator in a value.
  const kind = (row: string): string => {
    const cells = row.split(',');
    return ['product', 'level'].map((name) => cells[columns.indexOf(name)]).join();
  };
  const kinds = new Set<string>();
  const shown = rows.filter((row) => !kinds.has(kind(row)) && kinds.add(kind(row)));
  const at = columns.indexOf('customer');
  const lines = [header, ...shown].map((row) =>
    customers
      ? row
      : row
          .split(',')
          .filter((_, i) => i !== at)
          .join(','),
  );
  return `${lines.join('\n')}\n`;
}

async function onHost(options: SharedOptions, work: (host: HostClient) => Promise<void>): Promise<void> {
  await carryOut(options, async () => {
    await withHost(userPath(options.data), work);
    return undefined;
  });
}

/** Tables show the beginning of a batch's id: it suffices where it is the only one. */
async function wholeId(host: HostClient, id: string): Promise<string> {
  if (/^bat_[0-9a-f]{32}$/.test(id)) return id;
  const { batches } = await host.call(HOST.batches, {});
  const found = batches.filter((batch) => batch.id.startsWith(id) || batch.id.startsWith(`bat_${id}`));
  return found.length === 1 && found[0] !== undefined ? found[0].id : id;
}

async function frank(host: HostClient, file: string, options: FrankOptions): Promise<number> {
  const mailing: MailingOptions = {
    file: userPath(file),
    ...(options.job === undefined ? {} : { job: options.job }),
    ...(options.acceptGood === undefined ? {} : { acceptGood: options.acceptGood }),
    ...(options.encoding === undefined ? {} : { encoding: options.encoding }),
    ...(options.mailingDate === undefined ? {} : { mailingDate: options.mailingDate }),
  };
  const progress = new Progress();
  if (options.dryRun === true) {
    const answer = await host.call(HOST.dryRun, mailing, (event) => progress.show(event)).finally(() => progress.end());
    progress.warn(answer.warnings);
    if (options.json === true) printJson(answer);
    else print(dryRunText(answer));
    return EXIT.done;
  }
  // Ctrl-C finishes the chunk in hand; the call then answers with what was franked.
  const stop = (): void => {
    host.call(HOST.stop, {}).catch(() => undefined);
  };
  process.once('SIGINT', stop);
  const answer = await host
    .call(
      HOST.frank,
      { ...mailing, ...(options.keepOpen === undefined ? {} : { keepOpen: options.keepOpen }) },
      (event) => progress.show(event),
    )
    .finally(() => {
      progress.end();
      process.off('SIGINT', stop);
    });
  progress.warn(answer.warnings);
  const { rejection } = answer;
  if (rejection !== undefined) tell(rejection);
  if (options.json === true)
    printJson({ ...answer.report, ...(rejection === undefined ? {} : { error: errorObject(rejection) }) });
  else print(jobSummary(answer.report));
  if (rejection !== undefined) return rejection.exit;
  if (answer.remaining > 0) {
    note(`${countText(answer.remaining)} pieces remain: the same command goes on.`);
    return EXIT.unconfirmed;
  }
  return EXIT.done;
}

function dryRunText(answer: DryRunAnswer): string {
  const currency = { code: answer.currency, exponent: answer.exponent };
  const amount = (value: string | null): string => (value === null ? '?' : amountText(value, currency));
  const expected = answer.customers.every(({ expectedDiscountMills }) => expectedDiscountMills !== null)
    ? answer.customers.reduce((sum, customer) => sum + BigInt(customer.expectedDiscountMills ?? 0), 0n).toString()
    : null;
  const table = formatTable(
    [
      { heading: 'Customer' },
      { heading: 'Product' },
      { heading: 'Level' },
      { heading: 'Pieces', right: true },
      { heading: `Postage ${currency.code}`, right: true },
      { heading: 'Less at level', right: true },
      { heading: 'Expected discount', right: true },
    ],
    answer.customers.flatMap((customer) => [
      ...customer.levels.map((level) => [
        customerText(customer.customer),
        level.product,
        level.level,
        countText(level.pieces),
        amount(level.postageMills),
        amount(level.differenceMills),
        amount(level.expectedDiscountMills),
      ]),
      [
        customerText(customer.customer),
        '(all)',
        '',
        countText(customer.pieces),
        amount(customer.postageMills),
        '',
        amount(customer.expectedDiscountMills),
      ],
    ]),
    {
      emphasis: style.bold,
      total: ['Total', '', '', countText(answer.pieces), amount(answer.postageMills), '', amount(expected)],
    },
  );
  const facts = formatPairs([
    ['Job', answer.job],
    ['Franked before', countText(answer.frankedBefore)],
    ['Rejected rows', `${countText(answer.rejectedRows)}${answer.errors === undefined ? '' : ` (${answer.errors})`}`],
    ['Funds before', `${currency.code} ${amount(answer.fundsBeforeMills)}`],
    ['Funds after', `${currency.code} ${amount(answer.fundsAfterMills)}`],
  ]);
  const alone =
    'The discount is what this mailing would earn alone; what was mailed before in the same period can only raise it.';
  return `${table}\n\n${facts}\n\n${alone}\nNothing was franked.`;
}

function shownText({ batch, piece }: ShowAnswer, currency: { code: string; exponent: number }): string {
  const parts = [
    formatPairs([
      ['Batch', batch.id],
      ['Job', batch.job],
      ['Customer', customerText(batch.customer)],
      ['Product', batch.product],
      ['Mailing date', batch.mailingDate],
      ['Pieces', countText(batch.pieces)],
      ['First number', batch.firstPieceNumber === null ? '' : String(batch.firstPieceNumber)],
      ['Postage', `${currency.code} ${amountText(batch.postageMills, currency)}`],
      ['Spoiled', countText(batch.spoiled)],
      ['Reprints', countText(batch.reprints)],
      [
        'State',
        `${batch.state}${batch.incomplete ? ', incomplete' : ''}${batch.reason === undefined ? '' : ` (${batch.reason})`}`,
      ],
      ['Record', batch.sequence === null ? 'not sealed yet' : `${batch.sequence}, ${batch.digest ?? ''}`],
      ['In the PSD', batch.sequence === null ? '' : batch.deletedFromPsd ? 'deleted' : 'kept until it is confirmed'],
    ]),
    section(
      'Rate cells',
      formatTable(
        [
          { heading: 'Product' },
          { heading: 'Shape' },
          { heading: 'Level (declared)' },
          { heading: 'Entry' },
          { heading: 'Weight step', right: true },
          { heading: 'Pieces', right: true },
          { heading: `Postage ${currency.code}`, right: true },
        ],
        batch.cells.map((cell) => [
          cell.product,
          cell.shape,
          cell.level,
          cell.entry,
          String(cell.weightStep),
          countText(cell.pieces),
          amountText(cell.postageMills, currency),
        ]),
        { emphasis: style.bold },
      ),
    ),
  ];
  if (piece !== undefined) {
    parts.push(
      section(
        'Piece',
        formatPairs([
          ['Number', String(piece.pieceNumber)],
          ['Row', String(piece.row)],
          ['Postage', `${currency.code} ${amountText(piece.postageMills, currency)}`],
          ['Level', piece.level],
          ['Weight step', String(piece.weightStep)],
          ['Reference', piece.reference],
          ['Indicium', piece.indicium],
        ]),
      ),
    );
  }
  return parts.join('\n\n');
}

function tellBatch(batch: BatchReport, options: SharedOptions): void {
  if (options.json === true) printJson({ batch });
  else print(`${batch.id}: ${batch.state}, ${countText(batch.pieces)} pieces, ${countText(batch.spoiled)} spoiled.`);
}

function wholeNumber(value: string): number {
  if (!/^\d{1,10}$/.test(value)) throw new InvalidArgumentError('a number is expected.');
  return Number(value);
}
