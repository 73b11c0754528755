import { describe, expect, it } from 'vitest';
import type { CborValue } from '../cbor.ts';
import { encodeWith, parseValue } from '../schema.ts';
import { encode } from '../cbor.ts';
import { rejectionSchema } from './answer.ts';

describe('A rejection in an answer', () => {
  const detail = (...entries: [string, CborValue][]): CborValue => new Map<CborValue, CborValue>(entries);

  it('is a code and its details, and nothing after them', () => {
    expect(parseValue(rejectionSchema, ['malformed', detail(), 0])).toMatchObject({ ok: false });
    expect(parseValue(rejectionSchema, ['malformed'])).toMatchObject({ ok: false });
    expect(parseValue(rejectionSchema, ['malformed', detail()])).toMatchObject({ ok: true });
  });

  it.each(['path', '__proto__', 'constructor'])('keeps a detail named %s', (name) => {
    const value: CborValue = ['malformed', detail([name, 'x'])];
    const parsed = parseValue(rejectionSchema, value);
    expect(parsed.ok && encodeWith(rejectionSchema, parsed.value)).toEqual(encode(value));
  });
});
