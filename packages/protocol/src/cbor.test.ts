/** The codec: what it accepts has one encoding only; everything else is refused by its code. */
import { createHash } from 'node:crypto';
import { cdeEncodeOptions, encode as independentEncode } from 'cbor2';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CborValue, decode, encode } from './cbor.ts';
import { unhex } from './id.ts';

const value: fc.Arbitrary<CborValue> = fc.letrec<{ value: CborValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', maxDepth: 4 },
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map(canonical),
    fc.bigInt({ min: -(1n << 64n), max: -1n }).map(canonical),
    fc.string({ unit: 'grapheme' }),
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

  it.each([
    ['an integer longer than needed', '1817', 'cbor-not-deterministic'],
    ['a length longer than needed', '580100', 'cbor-not-deterministic'],
    ['map keys out of order', 'a202000100', 'cbor-not-deterministic'],
    ['an indefinite list', '9f01ff', 'cbor-not-deterministic'],
    ['a key twice', 'a201000100', 'cbor-duplicate-key'],
    ['a float', 'f93c00', 'cbor-malformed'],
    ['undefined', 'f7', 'cbor-malformed'],
    ['a tag', 'c001', 'cbor-malformed'],
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
