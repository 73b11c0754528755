/** Schemas: exactly what is described, nothing else. */
import { describe, expect, it } from 'vitest';
import { encode } from './cbor.ts';
import { bytes, encodeWith, field, list, oneOf, optional, parseBytes, struct, text, tuple, uint } from './schema.ts';

const point = tuple('point', { x: uint(9), y: uint(9) });
const shape = struct('shape', {
  kind: field(1, oneOf('line', 'area')),
  points: field(2, list(point, 2, 1)),
  note: optional(3, text(5)),
  seal: optional(4, bytes(2, 3)),
});

function outcome(value: Parameters<typeof encode>[0]): unknown {
  const parsed = parseBytes(shape, encode(value));
  return parsed.ok ? parsed.value : [parsed.rejection.code, parsed.rejection.detail['path']];
}

describe('Schema', () => {
  it('gives back what it encoded, with absent fields absent', () => {
    const value = { kind: 'line', points: [{ x: 1, y: 2 }] } as const;
    const parsed = parseBytes(shape, encodeWith(shape, value));
    expect(parsed).toEqual({ ok: true, value });
  });

  it.each([
    [
      'an unknown field',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1, 2]]],
        [9, 0],
      ]),
      ['unknown-field', '(whole)'],
    ],
    ['a missing field', new Map<number, unknown>([[1, 'line']]), ['malformed', 'points']],
    [
      'another text',
      new Map<number, unknown>([
        [1, 'dot'],
        [2, [[1, 2]]],
      ]),
      ['malformed', 'kind'],
    ],
    [
      'too many items',
      new Map<number, unknown>([
        [1, 'line'],
        [
          2,
          [
            [1, 2],
            [1, 2],
            [1, 2],
          ],
        ],
      ]),
      ['malformed', 'points'],
    ],
    [
      'too few items',
      new Map<number, unknown>([
        [1, 'line'],
        [2, []],
      ]),
      ['malformed', 'points'],
    ],
    [
      'a number out of range',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1, 10]]],
      ]),
      ['malformed', 'points.0.y'],
    ],
    [
      'a tuple of another length',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1]]],
      ]),
      ['malformed', 'points.0'],
    ],
    [
      'null for an absent field',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1, 2]]],
        [3, null],
      ]),
      ['malformed', 'note'],
    ],
    [
      'a text that is too long in bytes',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1, 2]]],
        [3, 'äöü'],
      ]),
      ['malformed', 'note'],
    ],
    [
      'control characters',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1, 2]]],
        [3, 'a\n'],
      ]),
      ['malformed', 'note'],
    ],
    [
      'bytes of another length',
      new Map<number, unknown>([
        [1, 'line'],
        [2, [[1, 2]]],
        [4, Uint8Array.of(1)],
      ]),
      ['malformed', 'seal'],
    ],
    ['a list where a map belongs', [1], ['malformed', '(whole)']],
  ])('refuses %s', (_, value, expected) => {
    expect(outcome(value as Parameters<typeof encode>[0])).toEqual(expected);
  });

  it('prints its CDDL with the names of fields', () => {
    const source = [...shape.rules].map(([name, rule]) => `${name} = ${rule}`).join('\n');
    expect(source).toContain('? 3 => tstr .size (0..5), ; note');
  });
});
