import type { Attestation } from '@countermark/protocol/messages/attestation';
import { describe, expect, it } from 'vitest';
import { AttestedMemory } from './attested-memory.ts';

const said = (sequence: number): Attestation => ({ sequence }) as Attestation;
const bytes = (seed: number, length = 100): Uint8Array => new Uint8Array(length).map((_, i) => (seed * 31 + i) & 255);

describe('What was attested a moment ago', () => {
  it('is known of exactly these bytes', () => {
    const memory = new AttestedMemory();
    memory.remember(bytes(1), bytes(2), said(7));
    const altered = (of: Uint8Array, at: number): Uint8Array => of.map((byte, i) => (i === at ? byte ^ 1 : byte));
    for (const at of [0, 50, 99]) {
      expect(memory.recall(altered(bytes(1), at), bytes(2))).toBeNull();
      expect(memory.recall(bytes(1), altered(bytes(2), at))).toBeNull();
    }
    expect(memory.recall(bytes(1), bytes(2, 99))).toBeNull();
    expect(memory.recall(bytes(1), bytes(2))).toEqual(said(7));
  });

  it('keeps its own copy: neither what was passed in nor the frame around it stays in memory', () => {
    const memory = new AttestedMemory();
    const frame = new Uint8Array(1_000);
    frame.set(bytes(1), 200);
    const record = frame.subarray(200, 300);
    memory.remember(record, bytes(2), said(7));
    frame.fill(0);
    expect(memory.recall(record, bytes(2))).toBeNull();
    expect(memory.recall(bytes(1), bytes(2))).toEqual(said(7));
  });

  it('is bounded in number and in bytes, the oldest being forgotten', () => {
    const few = new AttestedMemory(2);
    for (const seed of [1, 2, 3]) few.remember(bytes(seed), bytes(seed + 100), said(seed));
    expect([1, 2, 3].map((seed) => few.recall(bytes(seed), bytes(seed + 100))?.sequence)).toEqual([undefined, 2, 3]);
    const small = new AttestedMemory(100, 450);
    for (const seed of [1, 2, 3]) small.remember(bytes(seed), bytes(seed + 100), said(seed));
    expect([1, 2, 3].map((seed) => small.recall(bytes(seed), bytes(seed + 100))?.sequence)).toEqual([undefined, 2, 3]);
  });
});
