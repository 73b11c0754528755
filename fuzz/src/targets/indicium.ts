/**
 * Indicia and piece records: what parses as an indicium is written back to the same bytes; the quick reader of piece records
 * agrees with the schema wherever the schema takes the bytes.
 */
import { cellKeyBytes } from '@countermark/protocol/cell';
import type { BatchId, DeviceId } from '@countermark/protocol/id';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  MAX_ASCENDING_MILLS,
  MAX_INDICIUM_POSTAGE_MILLS,
  parseIndicium,
  writeIndiciumInput,
} from '@countermark/protocol/layout';
import {
  pieceRecord,
  pieceRecordBytes,
  pieceRecordHead,
  readPieceRecord,
} from '@countermark/protocol/messages/piece-record';
import { parseBytes } from '@countermark/protocol/schema';
import { mutateCbor } from '../cbor-tree.ts';
import { ACCEPTED, must, mustEqual, type Target } from '../target.ts';
import { bytesOf, indicia } from '../vectors.ts';

export const indiciumTarget: Target = {
  name: 'indicium',
  about: 'payload of a symbol: written back to the same bytes, amounts within their fields',
  words: ['protocol'],
  maxBytes: 256,
  mutations: [],
  open: () => ({
    seeds: (indicia() as { vectors: { payload: string }[] }).vectors.map(({ payload }) => bytesOf(payload)),
    run: (input) => {
      const result = parseIndicium(input);
      if (!result.ok) return result.rejection.code;
      const { indicium, input: body, authenticator } = result.value;
      const { layout, specimen, device, epoch, mailingDate, pieceNumber, postageMills, ascendingMills } = indicium;
      must(postageMills >= 0n && postageMills <= MAX_INDICIUM_POSTAGE_MILLS, 'a postage outside its field');
      must(ascendingMills >= 0n && ascendingMills <= MAX_ASCENDING_MILLS, 'an ascending register outside its field');
      const frame = indiciumFrame(layout, specimen, device, epoch, mailingDate);
      const written = new Uint8Array(indiciumInputBytes(layout));
      writeIndiciumInput(written, 0, frame, pieceNumber, postageMills, ascendingMills);
      mustEqual(written, body, 'what was authenticated is written back differently');
      mustEqual(indiciumBytes(written, authenticator), input, 'the symbol is written back differently');
      return ACCEPTED;
    },
  }),
};

const DEVICE = 'psd_0011223344556677' as DeviceId;
const BATCH = 'bat_0123456789abcdef0123456789abcdef' as BatchId;
const CELL = {
  product: 'usps-fcm-letter',
  shape: 'letter',
  affixed: 'metered',
  level: '5-digit',
  entry: 'none',
  weightStep: 10,
};

export const pieceRecordTarget: Target = {
  name: 'piece-record',
  about: 'piece records from host memory: the quick reader says what the schema says',
  words: ['protocol'],
  maxBytes: 512,
  mutations: [mutateCbor],
  open: () => {
    const head = pieceRecordHead(DEVICE, BATCH);
    const amounts = [1n, 740n, 0xffff_ffffn, 1n << 40n];
    return {
      seeds: amounts.map((mills, i) =>
        pieceRecordBytes(head, i * 300, 1 + i * 70_000, mills, cellKeyBytes(CELL), new Uint8Array(16)),
      ),
      run: (input) => {
        const quick = readPieceRecord(head, input);
        const whole = parseBytes(pieceRecord, input);
        if (!whole.ok) return whole.rejection.code;
        if (whole.value.device !== DEVICE || whole.value.batch !== BATCH) {
          must(quick === null, 'the quick reader takes a record of another device or batch');
          return 'another-head';
        }
        must(quick !== null, 'the quick reader refuses what the schema takes');
        must(quick.index === whole.value.index, 'another index');
        must(quick.pieceNumber === whole.value.pieceNumber, 'another piece number');
        must(quick.postageMills === whole.value.postageMills, 'another postage');
        mustEqual(quick.cell, cellKeyBytes(whole.value.cell), 'another cell');
        mustEqual(quick.reference, whole.value.reference, 'another reference');
        return ACCEPTED;
      },
    };
  },
};
