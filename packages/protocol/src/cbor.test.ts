/** The codec: what it accepts has one encoding only; everything else is refused by its code. */
import { createHash } from 'node:crypto';
import { cdeDecodeOptions, cdeEncodeOptions, decode as independentDecode, encode as independentEncode } from 'cbor2';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CborValue, decode, encode, FRAME_LIMITS } from './cbor.ts';
import { unhex } from './id.ts';

const value: fc.Arbitrary<CborValue> = fc.letrec<{ value: CborValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', maxDepth: 4 },
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map(canonical),
    fc.bigInt({ min: -(1n << 64n), max: -1n }).map(canonical),
    fc.string({ unit: 'grapheme' }).map((text) => text.replace(/^\ufeff+/, '')),
    fc.uint8Array({ maxLength: 40 }),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 5 }),
    fc
      .uniqueArray(fc.tuple(fc.oneof(fc.integer(), fc.string()), tie('value')), {
        selector: ([key]) => key,
        maxLength: 6,
      })
      .map((entries) => new Map<CborValue, CborValue>(entries)),
  ),
})).value;

/** Integers within 2^53 are numbers, beyond it bigints: the form that `decode` gives. */
function canonical(n: bigint): CborValue {
  return n >= BigInt(Number.MIN_SAFE_INTEGER) && n <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(n) : n;
}

function code(hexText: string): string {
  const result = decode(unhex(hexText) as Uint8Array);
  return result.ok ? 'accepted' : result.rejection.code;
}

function independent(bytes: Uint8Array): { readonly value: unknown } | null {
  try {
    return {
      value: independentDecode(bytes, {
        ...cdeDecodeOptions,
        preferMap: true,
        rejectFloats: true,
        rejectBigInts: true,
      }),
    };
  } catch {
    return null;
  }
}

/** Integers, strings, lists, maps with keys of integers or texts, true, false, null. */
function isOfOurTypes(decoded: unknown): boolean {
  if (decoded === null || typeof decoded === 'boolean') return true;
  // Beyond 64 bits an integer stands behind a tag, which is no type of ours.
  if (typeof decoded === 'bigint') return decoded >= -(2n ** 64n) && decoded < 2n ** 64n;
  if (typeof decoded === 'string') return !decoded.startsWith('\ufeff');
  if (typeof decoded === 'number') return Number.isSafeInteger(decoded);
  if (decoded instanceof Uint8Array) return true;
  if (Array.isArray(decoded)) return decoded.every(isOfOurTypes);
  return (
    decoded instanceof Map &&
    [...decoded].every(
      ([key, entry]) => ['number', 'bigint', 'string'].includes(typeof key) && isOfOurTypes(key) && isOfOurTypes(entry),
    )
  );
}

describe('CBOR', () => {
  it('gives back what was encoded', () => {
    fc.assert(
      fc.property(value, (original) => {
        const result = decode(encode(original));
        expect(result.ok && result.value).toEqual(original);
      }),
    );
  });

  it('encodes as an independent implementation in CDE mode does', () => {
    fc.assert(
      fc.property(value, (original) => {
        expect(Buffer.from(encode(original)).toString('hex')).toBe(
          Buffer.from(independentEncode(original, cdeEncodeOptions)).toString('hex'),
        );
      }),
    );
  });

  it('accepts no byte string that differs from the encoding of its value', () => {
    fc.assert(
      fc.property(value, fc.nat(), fc.integer({ min: 1, max: 255 }), (original, at, flip) => {
        const bytes = Uint8Array.from(encode(original));
        bytes[at % bytes.length] = (bytes[at % bytes.length] as number) ^ flip;
        const result = decode(bytes);
        if (result.ok) expect(encode(result.value)).toEqual(bytes);
      }),
      { numRuns: 2_000 },
    );
  });

  it('accepts what an independent implementation in CDE mode accepts of our types, and nothing that it refuses', () => {
    // Bytes that are nearly CBOR: heads with arguments of every width, short strings, and what follows from them.
    const head = fc
      .tuple(fc.nat(7), fc.oneof(fc.nat(4), fc.nat(31)), fc.uint8Array({ maxLength: 4 }))
      .map(([major, info, rest]) => [(major << 5) | info, ...rest]);
    const nearly = fc.oneof(
      fc.array(head, { minLength: 1, maxLength: 6 }).map((parts) => Uint8Array.from(parts.flat())),
      fc.tuple(value, fc.nat(), fc.nat(255)).map(([original, at, byte]) => {
        const bytes = encode(original);
        bytes[at % bytes.length] = byte;
        return bytes;
      }),
    );
    fc.assert(
      fc.property(nearly, (bytes) => {
        const ours = decode(bytes);
        const theirs = independent(bytes);
        if (ours.ok) expect(theirs).toEqual({ value: ours.value });
        else if (theirs !== null) expect(isOfOurTypes(theirs.value)).toBe(false);
      }),
      { numRuns: 5_000 },
    );
  });

  it('takes no text that begins with a byte order mark, which a decoder would leave out', () => {
    for (const input of ['63efbbbf', '64efbbbf61', 'a263efbbbf00616100', `7828efbbbf${'61'.repeat(37)}`]) {
      expect([input, code(input)]).toEqual([input, 'cbor-malformed']);
    }
    expect(() => encode('\ufeffa')).toThrow(TypeError);
    expect(() => encode(new Map([['\ufeffa', 0]]))).toThrow(TypeError);
    expect(decode(encode('a\ufeff'))).toEqual({ ok: true, value: 'a\ufeff' });
  });

  it('keeps every other character of a text, short or long, as value and as key', () => {
    for (const character of ['\0', '\ufffd', '\u2028', '\u{1f4ee}', '__proto__']) {
      for (const length of [1, 40, 300]) {
        const text = character + 'a'.repeat(length);
        const original = new Map<CborValue, CborValue>([[text, [text, `${text}${character}`]]]);
        const bytes = encode(original);
        expect(decode(bytes)).toEqual({ ok: true, value: original });
        expect(decode(Buffer.from(bytes))).toEqual({ ok: true, value: original });
      }
    }
  });

  it.each([
    ['lists', 0x80],
    ['maps', 0xa0],
  ])('refuses a frame of millions of empty %s, which would take a hundred times its size', (_, empty) => {
    const bomb = new Uint8Array(4 * 1024 * 1024).fill(empty);
    bomb[0] = 0x9a;
    new DataView(bomb.buffer).setUint32(1, bomb.length - 5);
    const refused = decode(bomb, FRAME_LIMITS);
    expect(refused.ok ? null : refused.rejection.code).toBe('cbor-malformed');
    // Some thousands of small ones are none.
    const small = encode(Array.from({ length: 2_000 }, () => new Map([[1, []]])));
    expect(decode(small)).toMatchObject({ ok: true });
  });

  it.each([
    ['an integer longer than needed', '1817', 'cbor-not-deterministic'],
    ['a length longer than needed', '580100', 'cbor-not-deterministic'],
    ['map keys out of order', 'a202000100', 'cbor-not-deterministic'],
    ['an indefinite list', '9f01ff', 'cbor-not-deterministic'],
    ['a key twice', 'a201000100', 'cbor-duplicate-key'],
    ['a float', 'f93c00', 'cbor-malformed'],
    ['undefined', 'f7', 'cbor-malformed'],
    ['a tag', 'c001', 'cbor-malformed'],
    ['a bignum that an integer could hold', 'c24101', 'cbor-malformed'],
    ['true as a key', 'a1f500', 'cbor-malformed'],
    ['null as a key', 'a1f600', 'cbor-malformed'],
    ['an integer of eight bytes that four hold', '1b00000000ffffffff', 'cbor-not-deterministic'],
    ['a negative key before a positive one', 'a220000000', 'cbor-not-deterministic'],
    ['an overlong text', '62c080', 'cbor-malformed'],
    ['a surrogate in a text', '63eda080', 'cbor-malformed'],
    ['nothing', '', 'cbor-malformed'],
    ['a truncated text', '6261', 'cbor-malformed'],
    ['bytes after the item', '0000', 'cbor-malformed'],
    ['a count that the input cannot hold', '9b7fffffffffffffff', 'cbor-malformed'],
    ['text that is not UTF-8', '61ff', 'cbor-not-deterministic'],
    ['nine levels of lists', '8181818181818181818100', 'cbor-too-deep'],
  ])('refuses %s', (_, input, expected) => {
    const given = code(input);
    // A decoder may call invalid UTF-8 malformed as well: what matters is that it is refused.
    expect(
      expected === 'cbor-not-deterministic' && input === '61ff' ? ['cbor-malformed', expected] : [expected],
    ).toContain(given);
  });

  it('refuses what is too large before it decodes, and survives nesting that would overflow a stack', () => {
    const large = decode(new Uint8Array(300 * 1024));
    expect(large.ok ? null : large.rejection.code).toBe('cbor-too-large');
    const deep = decode(new Uint8Array(200_000).fill(0x81));
    expect(deep.ok ? null : deep.rejection.code).toBe('cbor-too-deep');
  });

  it('keeps its bytes for ever', () => {
    const sample = new Map<CborValue, CborValue>([
      [10, 'ä'],
      [1, [0, -1, 2n ** 63n]],
      [-3, new Uint8Array([1, 2])],
      ['k', null],
    ]);
    expect(createHash('sha256').update(encode(sample)).digest('hex')).toBe(
      createHash('sha256')
        .update(Buffer.from('a4018300' + '20' + '1b8000000000000000' + '0a62c3a4' + '22420102' + '616bf6', 'hex'))
        .digest('hex'),
    );
  });
});
