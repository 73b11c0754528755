/** The indicium's bytes: what was written is read; anything else is refused. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DeviceId } from './id.ts';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  LAYOUTS,
  parseIndicium,
  writeIndiciumInput,
} from './layout.ts';

const anIndicium = fc.record({
  authentication: fc.constantFrom('signature' as const, 'mac' as const),
  specimen: fc.boolean(),
  device: fc
    .uint8Array({ minLength: 8, maxLength: 8 })
    .map((bytes) => `psd_${Buffer.from(bytes).toString('hex')}` as DeviceId),
  epoch: fc.integer({ min: 1, max: 0xffff }),
  pieceNumber: fc.integer({ min: 1, max: 0xffff_ffff }),
  postage: fc.bigInt({ min: 0n, max: 0xffff_ffffn }),
  ascending: fc.bigInt({ min: 0n, max: (1n << 48n) - 1n }),
  day: fc
    .date({ min: new Date('2020-01-01'), max: new Date('2199-06-06'), noInvalidDate: true })
    .map((date) => date.toISOString().slice(0, 10)),
});

describe('Layout', () => {
  it('gives back every field', () => {
    fc.assert(
      fc.property(anIndicium, (of) => {
        const layout = LAYOUTS[of.authentication];
        const input = new Uint8Array(indiciumInputBytes(layout) + 5);
        writeIndiciumInput(
          input,
          5,
          indiciumFrame(layout, of.specimen, of.device, of.epoch, of.day),
          of.pieceNumber,
          of.postage,
          of.ascending,
        );
        const authenticator = new Uint8Array(layout.authenticatorBytes).fill(0xaa);
        const parsed = parseIndicium(indiciumBytes(input.subarray(5), authenticator));
        expect(parsed.ok && parsed.value.indicium).toEqual({
          layout,
          specimen: of.specimen,
          device: of.device,
          epoch: of.epoch,
          pieceNumber: of.pieceNumber,
          postageMills: of.postage,
          mailingDate: of.day,
          ascendingMills: of.ascending,
        });
        expect(parsed.ok && parsed.value.input).toEqual(input.slice(5));
        expect(parsed.ok && parsed.value.authenticator).toEqual(authenticator);
      }),
    );
  });

  it.each([
    ['an unknown layout', Uint8Array.of(9, ...new Uint8Array(91))],
    ['a payload cut off', Uint8Array.of(1, ...new Uint8Array(90))],
    ['unknown flags', Uint8Array.of(1, 2, ...new Uint8Array(90))],
    ['nothing', new Uint8Array(0)],
  ])('refuses %s', (_, payload) => {
    const parsed = parseIndicium(payload);
    expect(parsed.ok ? null : parsed.rejection.code).toBe('malformed');
  });

  it('refuses an amount that does not fit instead of cutting it', () => {
    const frame = indiciumFrame(LAYOUTS.mac, true, 'psd_0000000000000001' as DeviceId, 1, '2026-11-22');
    expect(() => writeIndiciumInput(new Uint8Array(100), 0, frame, 1, 1n << 32n, 0n)).toThrow(RangeError);
  });
});
