/**
 * `countermark audit list`: the server's audit trail, its chain computed again here.
 *
 * Guarantees that the whole chain is computed from its first entry, whatever part is shown: the server's digests are not believed. A number
 * with its digest that was kept from an earlier time is held against it, which shows a trail that was cut or written anew.
 */
import type { Command } from 'commander';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Digest, digestText, NO_DIGEST } from '@countermark/protocol/digest';
import { type AuditEntry, auditDigest } from '@countermark/protocol/interfaces/audit-entry';
import { EXIT } from '@countermark/protocol/rejection';
import { carryOut } from './command.ts';
import { refuseUsage } from './failure.ts';
import { askServer } from './registration.ts';
import { operatorAccess, type OperatorOptions, withOperator } from './server-operator.ts';
import { countText, timeText } from './summary.ts';
import { formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type Entry = AuditEntry & { readonly digest: string };
type Known = { readonly number: number; readonly digest: string };
type ListOptions = OperatorOptions & { readonly known?: string; readonly last?: string };

const PAGE = 1_000;
const LAST = 50;

/** Declares the commands. */
export function declare(program: Command): void {
  const audit = program.command('audit').summary('what people did at the server: list');
  audit.description('The audit trail of the server: who did what, each entry chained to the one before.');
  withOperator(
    audit
      .command('list')
      .description(
        'Reads the whole audit trail, computes its chain again, and shows its last entries. Keep the last number and digest, and give them with --known the next time.',
      )
      .option('--known <number:digest>', 'an entry that was there before, as this command ended')
      .option('--last <count>', 'how many entries to show, or all', String(LAST)),
    ['countermark audit list', 'countermark audit list --known 17:4bf5...e1 --last all --json'],
  ).action(async (options: ListOptions) => {
    await carryOut(options, () => list(options));
  });
}

async function list(options: ListOptions): Promise<number> {
  const known = options.known === undefined ? undefined : knownOf(options.known);
  const shown = options.last === 'all' ? Infinity : Number(options.last ?? LAST);
  if (!(shown >= 0)) refuseUsage('--last is a number, or all.');
  const access = await operatorAccess(options);
  const last: Entry[] = [];
  const problems: string[] = [];
  let previous: Digest = NO_DIGEST;
  let number = 0;
  for (;;) {
    const path = `/v1/audit-entries?after=${number}&limit=${PAGE}`;
    const { entries } = (await askServer(access, 'GET', path)) as { readonly entries: readonly Entry[] };
    for (const entry of entries) {
      const computed = chained(entry, previous);
      if (entry.number !== number + 1) problems.push(`Entry ${number + 1} is missing: ${entry.number} comes next.`);
      else if (computed === null || digestText(computed) !== entry.digest) {
        problems.push(`The chain breaks at entry ${entry.number}: it, or one before it, is not as it was written.`);
      }
      if (entry.number === known?.number && entry.digest !== known.digest) {
        problems.push(`Entry ${entry.number} has the digest ${entry.digest}; ${known.digest} was known.`);
      }
      number = entry.number;
      previous = computed ?? previous;
      last.push(entry);
      if (last.length > shown) last.shift();
    }
    if (problems.length > 0 || entries.length < PAGE) break;
  }
  if (problems.length === 0 && known !== undefined && known.number > number) {
    problems.push(`The trail ends with entry ${number}; entry ${known.number} was known.`);
  }
  const head = { number, digest: digestText(previous) };
  if (options.json === true) printJson({ head, problems, entries: last });
  else print(trailTable(last));
  for (const problem of problems) note(problem);
  if (options.json !== true && problems.length === 0) {
    note(`${countText(number)} entries, one chain. Its last: ${head.number}:${head.digest}`);
  }
  return problems.length === 0 ? EXIT.done : EXIT.input;
}

function knownOf(text: string): Known {
  const [, number, digest] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (number === undefined || digest === undefined) refuseUsage('--known is a number and a digest: 17:4bf5...');
  return { number: Number(number), digest };
}

/** The digest that the entry should have; null where no entry can be like this. */
function chained({ digest: _, ...entry }: Entry, previous: Digest): Digest | null {
  try {
    return auditDigest(entry, previous, nodeVerification.sha256);
  } catch {
    return null;
  }
}

function trailTable(entries: readonly Entry[]): string {
  return formatTable(
    [
      { heading: 'Number', right: true },
      { heading: 'Time' },
      { heading: 'Who' },
      { heading: 'Act' },
      { heading: 'Subject' },
      { heading: 'Words' },
    ],
    entries.map((entry) => [
      String(entry.number),
      timeText(entry.atMs),
      entry.actorKind === 'server' ? '' : `${entry.actor} (${entry.actorKind})`,
      entry.act,
      entry.subject,
      entry.words,
    ]),
    { emphasis: style.bold },
  );
}
