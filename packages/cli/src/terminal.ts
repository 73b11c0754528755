/**
 * Where a command writes: results on stdout, everything else on stderr.
 *
 * Guarantees: colours only on a terminal, never with NO_COLOR set or TERM=dumb; a reader that goes away (`| head`) ends nothing
 * with a stack trace; nothing is asked where nobody can answer.
 */
import pc from 'picocolors';

// In a pipe `isTTY` is undefined, which picocolors would take as leave to look for itself: CI and FORCE_COLOR count there.
const colourful = ({ isTTY }: { isTTY?: boolean }): boolean =>
  isTTY === true && (process.env.NO_COLOR ?? '') === '' && process.env.TERM !== 'dumb';

/** Styles for stdout. */
export const style = pc.createColors(colourful(process.stdout));
/** Styles for stderr. */
export const noteStyle = pc.createColors(colourful(process.stderr));

for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

/** A result, one line or several. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** The one JSON object of a command with `--json`. Amounts (`bigint`) become texts. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, (_, entry: unknown) => (typeof entry === 'bigint' ? entry.toString() : entry), 2));
}

/** Something to know while waiting. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Asks for yes or no; undefined where there is no terminal to ask on. */
export async function confirmed(question: string): Promise<boolean | undefined> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) return undefined;
  const { createInterface } = await import('node:readline/promises');
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim());
  } finally {
    lines.close();
  }
}
