/**
 * Values made from the CDDL that a schema prints: inputs to begin with for schemas that no vector shows, and a check that what
 * the printed description allows, the parser takes.
 *
 * Reads the forms that protocol/schema.ts prints, and no other CDDL.
 */
import { type CborValue, encode } from '@countermark/protocol/cbor';
import type { Schema } from '@countermark/protocol/schema';
import type { Random } from './random.ts';

/** Texts among which one fits each pattern of the protocol. */
const SAMPLES = [
  'psd_0011223344556677',
  'lic_vector-bureau',
  'alder-press',
  'bat_0123456789abcdef0123456789abcdef',
  'cer_0123456789abcdef0123456789abcdef',
  'job_1',
  'USD',
  '2026-11-22',
  '2026',
];

/** The encoding of one value that the schema describes. */
export function exampleOf(schema: Schema<unknown>, random: Random): Uint8Array {
  return encode(new Reader(schema.rules, random).value(schema.cddl));
}

class Reader {
  readonly #rules: ReadonlyMap<string, string>;
  readonly #random: Random;

  constructor(rules: ReadonlyMap<string, string>, random: Random) {
    this.#rules = rules;
    this.#random = random;
  }

  value(type: string): CborValue {
    const random = this.#random;
    const text = type.trim();
    const choices = /^"[^"]*"( \/ "[^"]*")*$/.test(text) ? [...text.matchAll(/"([^"]*)"/g)] : [];
    if (choices.length > 0) return random.pick(choices)[1] ?? '';
    const rule = this.#rules.get(text);
    if (rule !== undefined) return rule.startsWith('{') ? this.#struct(rule) : this.#tuple(rule);
    const range = /^(\d+)\.\.(\d+)$/.exec(text);
    if (range !== null) return this.#integer(BigInt(range[1] ?? '0'), BigInt(range[2] ?? '0'));
    const bytes = /^bstr \.size (?:(\d+)|\((\d+)\.\.(\d+)\))$/.exec(text);
    if (bytes !== null) return random.bytes(this.#length(Number(bytes[1] ?? bytes[2]), Number(bytes[1] ?? bytes[3])));
    const size = /^tstr \.size \(0\.\.(\d+)\)$/.exec(text);
    if (size !== null) return 'text '.repeat(random.below(2)).slice(0, Number(size[1]));
    const pattern = /^tstr \.regexp (".*")$/.exec(text);
    if (pattern !== null) return this.#matching(JSON.parse(pattern[1] ?? '""') as string);
    const list = /^\[(\d+)\*(\d+) (.*)\]$/s.exec(text);
    if (list !== null) {
      const item = (list[3] ?? '').replace(/^\((.*)\)$/, '$1');
      const least = Number(list[1]);
      return Array.from({ length: least + random.below(Math.min(3, Number(list[2]) - least + 1)) }, () =>
        this.value(item),
      );
    }
    if (text === 'bool') return random.once(2);
    if (text === 'uint') return random.below(1_000);
    if (text === '[tstr, {* tstr => tstr / int}]') return ['malformed', new Map([['path', 'x']])];
    throw new Error(`This form of CDDL is not read here: ${text}`);
  }

  #integer(least: bigint, most: bigint): CborValue {
    const offset = this.#random.pick([0n, 1n, 7n, most - least]);
    const value = least + offset > most ? most : least + offset;
    return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
  }

  #length(least: number, most: number): number {
    return Math.min(most, least + this.#random.below(Math.min(80, most - least + 1)));
  }

  #matching(source: string): string {
    const form = new RegExp(`^(?:${source})$`);
    const fitting = SAMPLES.filter((sample) => form.test(sample));
    if (fitting.length === 0) throw new Error(`No sample fits ${source}.`);
    return this.#random.pick(fitting);
  }

  #struct(rule: string): CborValue {
    const map = new Map<CborValue, CborValue>();
    for (const [, optional, key, type] of rule.matchAll(/^ {2}(\? )?(\d+) => (.*), ; \w+$/gm)) {
      if (optional !== undefined && this.#random.once(2)) continue;
      map.set(Number(key), this.value(type ?? ''));
    }
    return map;
  }

  #tuple(rule: string): CborValue {
    return [...rule.matchAll(/^ {2}\w+: (.*),$/gm)].map(([, type]) => this.value(type ?? ''));
  }
}
