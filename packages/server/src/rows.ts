/**
 * Many rows in one statement, written as text: what a query builder costs for each row is more than the row itself costs the
 * database. Used by the statistics log and the followers only; everything else uses the builder.
 *
 * Guarantees that values are bound, never written into the text. Names come from the caller's own code.
 */
import type { DatabaseKind } from '@countermark/sql/migrations';
import { CompiledQuery } from 'kysely';

export type SqlValue = string | bigint | Uint8Array | null;

/** Texts by statement and number of rows; both are few. */
const texts = new Map<string, string>();
const TEXTS_MAX = 2_000;

/** `INSERT INTO target VALUES (...), (...) suffix`; `target` is the table with its columns in parentheses. */
export function insertRows(
  kind: DatabaseKind,
  target: string,
  rows: readonly (readonly SqlValue[])[],
  suffix = '',
): CompiledQuery {
  const columns = rows[0]?.length ?? 0;
  const name = `${kind}|${target}|${suffix}|${rows.length}`;
  let text = texts.get(name);
  if (text === undefined) {
    text = `INSERT INTO ${target} VALUES ${groups(kind, rows.length, columns)} ${suffix}`;
    if (texts.size >= TEXTS_MAX) texts.clear();
    texts.set(name, text);
  }
  return CompiledQuery.raw(text, rows.flat());
}

/** `(?, ?), (?, ?)` or `($1, $2), ($3, $4)`. */
export function groups(kind: DatabaseKind, rows: number, columns: number): string {
  let next = 1;
  const mark = (): string => (kind === 'postgres' ? `$${next++}` : '?');
  return Array.from({ length: rows }, () => `(${Array.from({ length: columns }, mark).join(', ')})`).join(', ');
}
