/**
 * Schemas of everything that crosses a boundary: one description that parses strictly, encodes, and prints its CDDL.
 *
 * Guarantees: what `parse` returns has exactly the described fields, each within its bounds; unknown fields are refused
 * (that is what makes version negotiation defined); `encode(parse(x))` is `x`. Wire maps have small integer keys.
 * Does not verify anything cryptographic, and does not relate fields to each other.
 */
import type { CborLimits, CborValue } from './cbor.ts';
import { decode, encode } from './cbor.ts';
import type { Currency, Mills } from './money.ts';
import { MAX_MILLS } from './money.ts';
import { type RejectionCode, rejection } from './rejection.ts';
import { accept, type Result, refuse } from './result.ts';

export type Schema<T> = {
  /** @throws Misfit */
  readonly parse: (value: CborValue, path: string) => T;
  /** A method, so that a schema of a field type stands where any schema is expected. */
  toCbor(value: T): CborValue;
  /** The CDDL (RFC 8610) of this type; a named schema prints its name. */
  readonly cddl: string;
  /** The rules that `cddl` refers to, by name. */
  readonly rules: ReadonlyMap<string, string>;
};

/** The type that a schema describes. */
export type Of<S> = S extends Schema<infer T> ? T : never;

/** Thrown inside `parse` only; `parseWith` turns it into a rejection. */
export class Misfit extends Error {
  readonly path: string;
  readonly code: RejectionCode;
  readonly key: string;
  constructor(path: string, reason: string, code: RejectionCode = 'malformed', key = '') {
    super(reason);
    this.path = path;
    this.code = code;
    this.key = key;
  }

  /** The same, seen from what holds it. */
  within(path: string): Misfit {
    return new Misfit(path + this.path, this.message, this.code, this.key);
  }
}

/** Decodes and parses. Rejections: those of `decode`, `malformed`, `unknown-field`. */
export function parseBytes<T>(schema: Schema<T>, bytes: Uint8Array, limits?: CborLimits): Result<T> {
  const decoded = decode(bytes, limits);
  return decoded.ok ? parseValue(schema, decoded.value) : decoded;
}

/** Parses a decoded value. Rejections: `malformed`, `unknown-field`. */
export function parseValue<T>(schema: Schema<T>, value: CborValue): Result<T> {
  try {
    return accept(schema.parse(value, ''));
  } catch (error) {
    if (!(error instanceof Misfit)) throw error;
    const path = error.path === '' ? '(whole)' : error.path.slice(1);
    return refuse(rejection(error.code, { path, reason: error.message, key: error.key }));
  }
}

/** The deterministic encoding of a value of the schema. */
export function encodeWith<T>(schema: Schema<T>, value: T): Uint8Array {
  return encode(schema.toCbor(value));
}

const NO_RULES: ReadonlyMap<string, string> = new Map();

function leaf<T>(cddl: string, parse: Schema<T>['parse'], toCbor: Schema<T>['toCbor']): Schema<T> {
  return { parse, toCbor, cddl, rules: NO_RULES };
}

/** An unsigned integer that fits in a `number`. */
export function uint(max: number = Number.MAX_SAFE_INTEGER, min = 0): Schema<number> {
  return leaf(
    max === Number.MAX_SAFE_INTEGER && min === 0 ? 'uint' : `${min}..${max}`,
    (value, path) => {
      if (typeof value !== 'number' || value < min || value > max) {
        throw new Misfit(path, `an integer from ${min} to ${max} is expected`);
      }
      return value;
    },
    (value) => value,
  );
}

/** An amount in mills, 0 to 2^63-1. */
export const millsSchema: Schema<Mills> = leaf(
  `0..${MAX_MILLS}`,
  (value, path) => {
    if (typeof value !== 'number' && typeof value !== 'bigint') throw new Misfit(path, 'an amount is expected');
    const amount = BigInt(value);
    if (amount < 0n || amount > MAX_MILLS) throw new Misfit(path, 'an amount from 0 to 2^63-1 is expected');
    return amount as Mills;
  },
  (value) => value,
);

/** Milliseconds since 1970-01-01T00:00:00Z. */
export const timeMs: Schema<number> = uint(8_640_000_000_000_000);

export const bool: Schema<boolean> = leaf(
  'bool',
  (value, path) => {
    if (typeof value !== 'boolean') throw new Misfit(path, 'true or false is expected');
    return value;
  },
  (value) => value,
);

/** A byte string within bounds, both inclusive. */
export function bytes<T extends Uint8Array = Uint8Array>(min: number, max: number = min): Schema<T> {
  return leaf(
    `bstr .size ${min === max ? String(min) : `(${min}..${max})`}`,
    (value, path) => {
      if (!(value instanceof Uint8Array) || value.length < min || value.length > max) {
        throw new Misfit(path, `${min === max ? String(min) : `${min} to ${max}`} bytes are expected`);
      }
      return value as T;
    },
    (value) => value,
  );
}

/** A text of at most `maxLength` UTF-8 bytes, without control characters. */
export function text(maxLength: number): Schema<string> {
  return leaf(
    `tstr .size (0..${maxLength})`,
    (value, path) => {
      if (typeof value !== 'string' || new TextEncoder().encode(value).length > maxLength || /\p{Cc}/u.test(value)) {
        throw new Misfit(path, `a text of at most ${maxLength} bytes without control characters is expected`);
      }
      return value;
    },
    (value) => value,
  );
}

/** A text of a given form; `T` is its brand. */
export function pattern<T extends string>(form: RegExp): Schema<T> {
  return leaf(
    `tstr .regexp ${JSON.stringify(form.source.replace(/^\^|\$$/g, ''))}`,
    (value, path) => {
      if (typeof value !== 'string' || !form.test(value))
        throw new Misfit(path, `a text like ${form.source} is expected`);
      return value as T;
    },
    (value) => value,
  );
}

/** One of a few texts. */
export function oneOf<const T extends readonly string[]>(...values: T): Schema<T[number]> {
  return leaf(
    values.map((value) => JSON.stringify(value)).join(' / '),
    (value, path) => {
      if (typeof value !== 'string' || !values.includes(value)) {
        throw new Misfit(path, `one of ${values.join(', ')} is expected`);
      }
      return value;
    },
    (value) => value,
  );
}

/** A list of at most `max` items. */
export function list<T>(item: Schema<T>, max: number, min = 0): Schema<readonly T[]> {
  return {
    cddl: `[${min}*${max} ${grouped(item.cddl)}]`,
    rules: item.rules,
    parse: (value, path) => {
      if (!Array.isArray(value) || value.length > max || value.length < min) {
        throw new Misfit(path, `a list of ${min} to ${max} items is expected`);
      }
      return value.map((entry: CborValue, i) => item.parse(entry, `${path}.${i}`));
    },
    toCbor: (value) => value.map((entry) => item.toCbor(entry)),
  };
}

type Field = { readonly key: number; readonly schema: Schema<unknown>; readonly optional: boolean };
type FieldOf<T> = { readonly key: number; readonly schema: Schema<T>; readonly optional: false };
type OptionalOf<T> = { readonly key: number; readonly schema: Schema<T>; readonly optional: true };

/** A field that must be there. */
export function field<T>(key: number, schema: Schema<T>): FieldOf<T> {
  return { key, schema, optional: false };
}

/** A field that may be absent; absent is `undefined`, never null. */
export function optional<T>(key: number, schema: Schema<T>): OptionalOf<T> {
  return { key, schema, optional: true };
}

type Fields = Readonly<
  Record<string, { readonly key: number; readonly schema: Schema<unknown>; readonly optional: boolean }>
>;
type Struct<F> = {
  readonly [K in keyof F as F[K] extends { optional: false } ? K : never]: F[K] extends { schema: Schema<infer T> }
    ? T
    : never;
} & {
  readonly [K in keyof F as F[K] extends { optional: true } ? K : never]?: F[K] extends { schema: Schema<infer T> }
    ? T
    : never;
};

/** A map with integer keys on the wire and named fields in code. */
export function struct<const F extends Fields>(name: string, fields: F): Schema<Struct<F>> {
  const entries = Object.entries(fields) as unknown as readonly (readonly [string, Field])[];
  const byKey = new Map(entries.map(([fieldName, of]) => [of.key, fieldName]));
  if (byKey.size !== entries.length) throw new Error(`The schema ${name} uses a key twice.`);
  const rules = new Map<string, string>();
  for (const [, of] of entries) for (const [rule, body] of of.schema.rules) rules.set(rule, body);
  const lines = entries.map(
    ([fieldName, of]) => `  ${of.optional ? '? ' : ''}${of.key} => ${of.schema.cddl}, ; ${fieldName}`,
  );
  rules.set(name, `{\n${lines.join('\n')}\n}`);
  return {
    cddl: name,
    rules,
    parse: (value, path) => {
      if (!(value instanceof Map)) throw new Misfit(path, 'a map is expected');
      const parsed: Record<string, unknown> = {};
      let known = 0;
      for (const [, of] of entries) if (value.has(of.key)) known += 1;
      if (known !== value.size) throw unknownField(value as ReadonlyMap<CborValue, CborValue>, byKey, path);
      let at = '';
      // The path is put together only where something does not fit: paths of what does fit would cost as much as parsing it.
      try {
        for (const [fieldName, of] of entries) {
          at = fieldName;
          const entry = value.get(of.key) as CborValue | undefined;
          if (entry === undefined) {
            if (!of.optional) throw new Misfit('', 'it is missing');
            continue;
          }
          parsed[fieldName] = of.schema.parse(entry, '');
        }
      } catch (error) {
        throw error instanceof Misfit ? error.within(`${path}.${at}`) : error;
      }
      return parsed as Struct<F>;
    },
    toCbor: (value) => {
      const map = new Map<CborValue, CborValue>();
      for (const [fieldName, of] of entries) {
        const entry = (value as Record<string, unknown>)[fieldName];
        if (entry !== undefined) map.set(of.key, of.schema.toCbor(entry));
        else if (!of.optional) throw new TypeError(`The field ${fieldName} of ${name} is missing.`);
      }
      return map;
    },
  };
}

function unknownField(
  map: ReadonlyMap<CborValue, CborValue>,
  byKey: ReadonlyMap<number, string>,
  path: string,
): Misfit {
  for (const key of map.keys()) {
    if (typeof key === 'number' && byKey.has(key)) continue;
    const shown = typeof key === 'object' ? '?' : String(key);
    return new Misfit(path, 'unknown', 'unknown-field', shown);
  }
  throw new TypeError('every field is known');
}

type Elements = Readonly<Record<string, Schema<unknown>>>;
type Tuple<E> = { readonly [K in keyof E]: E[K] extends Schema<infer T> ? T : never };

/** An array of fixed length on the wire (where many of them stand together) and named fields in code. */
export function tuple<const E extends Elements>(name: string, elements: E): Schema<Tuple<E>> {
  const entries = Object.entries(elements) as unknown as readonly (readonly [string, Schema<unknown>])[];
  const rules = new Map<string, string>();
  for (const [, of] of entries) for (const [rule, body] of of.rules) rules.set(rule, body);
  rules.set(name, `[\n${entries.map(([element, of]) => `  ${element}: ${of.cddl},`).join('\n')}\n]`);
  return {
    cddl: name,
    rules,
    parse: (value, path) => {
      if (!Array.isArray(value) || value.length !== entries.length) {
        throw new Misfit(path, `a list of exactly ${entries.length} items is expected`);
      }
      const parsed: Record<string, unknown> = {};
      entries.forEach(([element, of], i) => {
        parsed[element] = of.parse(value[i] as CborValue, `${path}.${element}`);
      });
      return parsed as Tuple<E>;
    },
    toCbor: (value) => entries.map(([element, of]) => of.toCbor((value as Record<string, unknown>)[element])),
  };
}

/** A currency: code and exponent, the fields that every message with an amount carries. */
export const currencySchema: Schema<Currency> = tuple('currency', { code: pattern(/^[A-Z]{3}$/), exponent: uint(6) });

function grouped(cddl: string): string {
  return cddl.includes(' / ') ? `(${cddl})` : cddl;
}
