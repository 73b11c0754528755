/**
 * `countermark statistics`: the authenticated records on their way to the cryptographic device, by wire or on a stick.
 */
import type { Command } from 'commander';
import { HOST, type ImportAnswer, type RecordReport } from '@countermark/protocol/interfaces/host';
import { EXIT } from '@countermark/protocol/rejection';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { withHost } from './host-client.ts';
import { countText, timeText } from './summary.ts';
import { formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

/** Declares the commands. */
export function declare(program: Command): void {
  const statistics = program.command('statistics').summary('records: list, send, export, import');
  statistics.description(
    'The authenticated records of batches: what became of them, and sending them, by wire or on a stick.',
  );

  withShared(statistics.command('list').description('Lists the records: state, attempts, hold.'), [
    'countermark statistics list',
  ]).action(async (options: SharedOptions) => {
    await carryOut(options, async () => {
      const { records } = await withHost(userPath(options.data), (host) => host.call(HOST.statistics, {}));
      if (options.json === true) printJson({ records });
      else print(records.length === 0 ? 'No records yet.' : recordTable(records));
      return undefined;
    });
  });

  withShared(
    statistics
      .command('send')
      .description(
        'Sends at once what waits, without the wait after a failed attempt, and once more what was quarantined: what was wrong may have been on the way. It does not bypass a hold.',
      ),
    ['countermark statistics send'],
  ).action(async (options: SharedOptions) => {
    await carryOut(options, async () => {
      const answer = await withHost(userPath(options.data), (host) => host.call(HOST.send, {}));
      if (options.json === true) printJson(answer);
      else {
        print(`${answer.sent} sent, ${answer.confirmed} confirmed, ${answer.waiting.length} waiting.`);
        if (answer.waiting.length > 0) print(recordTable(answer.waiting));
      }
      if (answer.reason !== undefined) note(answer.reason);
      return answer.waiting.length > 0 ? EXIT.unconfirmed : EXIT.done;
    });
  });

  withShared(
    statistics
      .command('export')
      .description(
        'Writes the waiting records to a folder, for instance on a stick; records authenticate themselves. Those held stay until their time.',
      )
      .argument('<dir>', 'folder, made where it is missing'),
    ['countermark statistics export /media/stick'],
  ).action(async (directory: string, options: SharedOptions) => {
    await carryOut(options, async () => {
      const answer = await withHost(userPath(options.data), (host) =>
        host.call(HOST.exportRecords, { directory: userPath(directory) }),
      );
      if (options.json === true) printJson(answer);
      else {
        print(
          `${countText(answer.files.length)} files in ${answer.directory}${answer.held === 0 ? '.' : `; ${answer.held} records are held.`}`,
        );
        for (const file of answer.files) print(`  ${file}`);
      }
      return undefined;
    });
  });

  declareImport(statistics, {
    does: 'Brings the record files of a folder, of any device, to the server, and writes confirmations and attestations beside them.',
    directory: 'folder with record files',
    operation: HOST.importRecords,
  });
}

/** Declares the `import` of a folder's files; exit code 3 where one was refused. */
export function declareImport(
  parent: Command,
  of: {
    readonly does: string;
    readonly directory: string;
    readonly operation: typeof HOST.importRecords;
  },
): void {
  withShared(parent.command('import').description(of.does).argument('<dir>', of.directory), [
    `countermark ${parent.name()} import /media/stick`,
  ]).action(async (directory: string, options: SharedOptions) => {
    await carryOut(options, async () => {
      const answer = await withHost(userPath(options.data), (host) =>
        host.call(of.operation, { directory: userPath(directory) }),
      );
      return tellImport(answer, options);
    });
  });
}

/** Says what became of each file. */
function tellImport(answer: ImportAnswer, options: SharedOptions): number {
  if (options.json === true) printJson(answer);
  else {
    print(`${countText(answer.read)} files read in ${answer.directory}.`);
    for (const { file, outcome, message, files } of answer.results) {
      print(`  ${file}: ${outcome}${message === undefined ? '' : ` - ${message}`}`);
      for (const written of files ?? []) print(`    -> ${written}`);
    }
  }
  return answer.results.some(({ message }) => message !== undefined) ? EXIT.input : EXIT.done;
}

function recordTable(records: readonly RecordReport[]): string {
  return formatTable(
    [
      { heading: 'Record', right: true },
      { heading: 'Digest' },
      { heading: 'Job' },
      { heading: 'State' },
      { heading: 'Attempts', right: true },
      { heading: 'Sealed' },
      { heading: 'Next' },
      { heading: 'Reason' },
    ],
    records.map((record) => [
      String(record.sequence),
      record.digest.slice(0, 16),
      OF_NO_JOB[record.type] ?? record.job ?? '',
      record.state,
      String(record.attempts),
      timeText(record.sealedAtMs),
      nextOf(record),
      record.reason ?? '',
    ]),
    { emphasis: style.bold },
  );
}

const OF_NO_JOB: Readonly<Partial<Record<RecordReport['type'], string>>> = {
  'key-rotation': '(key rotation)',
  'final-statement': '(final statement)',
};

function nextOf({ state, holdUntilMs, nextAttemptMs }: RecordReport): string {
  if (state === 'held' && holdUntilMs !== null) return `held until ${timeText(holdUntilMs)}`;
  return nextAttemptMs === null ? '' : timeText(nextAttemptMs);
}
