/**
 * A verified message in words: names and values, nested as they are in the message.
 *
 * Guarantees that every field is shown, bytes as hex, amounts with their currency where the message names one, times in UTC.
 * Field names are those of docs/protocol.
 */
import type { Currency } from '@countermark/protocol/money';
import { formatMills } from '@countermark/protocol/money';
import { hex } from '@countermark/protocol/id';
import { timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';

/** The message as JSON: bytes become hex, amounts texts. */
export function contentJson(value: unknown): unknown {
  if (value instanceof Uint8Array) return hex(value);
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return value.map(contentJson);
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, contentJson(entry)]));
  }
  return value;
}

/** The message for people. */
export function contentText(message: unknown): string {
  const currency = currencyOf(message);
  const pairs: (readonly [string, string])[] = [];
  const tables: string[] = [];
  walk(message, '', currency, pairs, tables);
  return [formatPairs(pairs), ...tables].join('\n\n');
}

function walk(
  value: unknown,
  path: string,
  currency: Currency | undefined,
  pairs: (readonly [string, string])[],
  tables: string[],
): void {
  if (Array.isArray(value)) {
    const items = value as readonly unknown[];
    if (items.length > 0 && items.every((item) => isPlain(item) && !(item instanceof Uint8Array))) {
      tables.push(`${path}:\n${listTable(items as readonly Readonly<Record<string, unknown>>[], currency)}`);
    } else if (items.length === 0) pairs.push([path, '(none)']);
    else items.forEach((item, i) => pairs.push([i === 0 ? path : '', leafText('', item, currency)]));
    return;
  }
  if (isPlain(value) && !isCurrency(value)) {
    for (const [name, entry] of Object.entries(value)) {
      walk(entry, path === '' ? name : `${path}.${name}`, currency, pairs, tables);
    }
    return;
  }
  pairs.push([path, leafText(path, value, currency)]);
}

function listTable(items: readonly Readonly<Record<string, unknown>>[], currency: Currency | undefined): string {
  const flat = items.map((item) => {
    const cells: Record<string, { text: string; right: boolean }> = {};
    const add = (name: string, entry: unknown): void => {
      if (isPlain(entry)) for (const [inner, value] of Object.entries(entry)) add(inner, value);
      else
        cells[name] = {
          text: leafText(name, entry, currency),
          right: typeof entry === 'number' || typeof entry === 'bigint',
        };
    };
    for (const [name, entry] of Object.entries(item)) add(name, entry);
    return cells;
  });
  const names = [...new Set(flat.flatMap((cells) => Object.keys(cells)))];
  return formatTable(
    names.map((name) => ({ heading: name, right: flat.some((cells) => cells[name]?.right === true) })),
    flat.map((cells) => names.map((name) => cells[name]?.text ?? '')),
  );
}

function leafText(path: string, value: unknown, currency: Currency | undefined): string {
  if (value instanceof Uint8Array) return hex(value);
  if (typeof value === 'bigint') return currency === undefined ? `${value} mills` : formatMills(value, currency);
  if (typeof value === 'number' && /(AtMs|AfterMs|timeMs|sinceMs)$/.test(path)) return timeText(value);
  if (isPlain(value) && isCurrency(value)) return `${String(value.code)}, ${String(value.exponent)} decimal places`;
  return String(value);
}

function currencyOf(value: unknown): Currency | undefined {
  if (!isPlain(value)) return undefined;
  for (const [name, entry] of Object.entries(value)) {
    if (name === 'currency' && isPlain(entry) && isCurrency(entry)) return entry as unknown as Currency;
    const inner = currencyOf(entry);
    if (inner !== undefined) return inner;
  }
  return undefined;
}

function isPlain(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

function isCurrency(value: Readonly<Record<string, unknown>>): boolean {
  return Object.keys(value).length === 2 && 'code' in value && 'exponent' in value;
}
