/** The hand-written encoding of piece records equals the schema's. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cellKeyBytes } from '../cell.ts';
import type { BatchId, DeviceId } from '../id.ts';
import { mills } from '../money.ts';
import { encodeWith, parseBytes } from '../schema.ts';
import { pieceRecord, pieceRecordBytes, pieceRecordHead, readPieceRecord } from './piece-record.ts';

const code = fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,31}$/);

describe('Piece record', () => {
  it('has the same bytes by hand as by its schema', () => {
    const number = fc.oneof(fc.nat(30), fc.nat(300), fc.nat(70_000), fc.nat(0xffff_ffff));
    fc.assert(
      fc.property(
        number,
        number.map((n) => n + 1).filter((n) => n <= 0xffff_ffff),
        fc.oneof(fc.bigInt({ min: 0n, max: 70_000n }), fc.bigInt({ min: 0n, max: (1n << 63n) - 1n })),
        fc.record({
          product: code,
          shape: code,
          affixed: code,
          level: code,
          entry: code,
          weightStep: fc.nat(1_000_000),
        }),
        fc.uint8Array({ minLength: 16, maxLength: 16 }),
        (index, pieceNumber, postage, cell, reference) => {
          const device = 'psd_00112233445566ff' as DeviceId;
          const batch = `bat_${'0f'.repeat(16)}` as BatchId;
          const byHand = pieceRecordBytes(
            pieceRecordHead(device, batch),
            index,
            pieceNumber,
            postage,
            cellKeyBytes(cell),
            reference,
          );
          const value = {
            version: 1,
            device,
            batch,
            index,
            pieceNumber,
            postageMills: mills(postage),
            cell,
            reference,
          };
          expect(byHand).toEqual(encodeWith(pieceRecord, value));
          const parsed = parseBytes(pieceRecord, byHand);
          expect(parsed.ok && parsed.value).toEqual(value);
          expect(readPieceRecord(pieceRecordHead(device, batch), byHand)).toEqual({
            index,
            pieceNumber,
            postageMills: postage,
            cell: cellKeyBytes(cell),
            reference,
          });
        },
      ),
    );
  });
});
