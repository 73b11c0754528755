/**
 * Bugs of the kind that parsers have, each a replacement of one text in one source file: the fuzzer must find every one.
 */
import type { Replacement } from './bundle.ts';

/** `targets`: those that drive the file. */
type PlantedBug = Replacement & { readonly name: string; readonly targets: readonly string[] };

const CBOR = 'packages/protocol/src/cbor.ts';
const SCHEMA = 'packages/protocol/src/schema.ts';
const COSE = 'packages/protocol/src/cose.ts';
const FRAMES = 'packages/node-platform/src/socket-frames.ts';
const MAILING = 'packages/host/src/mailing.ts';

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'cbor-takes-longer-numbers-than-needed',
    targets: ['cbor'],
    file: CBOR,
    find: "argument < least ? rejection('cbor-not-deterministic', {}) : argument",
    replace: 'argument',
  },
  {
    name: 'cbor-takes-indefinite-lengths',
    targets: ['cbor'],
    file: CBOR,
    find: "if (info === 31) return rejection('cbor-not-deterministic', {});",
    replace: 'if (info === 31) { if (major === 7) return null; return this.#enter(1, false); }',
  },
  {
    name: 'cbor-takes-a-key-twice',
    targets: ['cbor'],
    file: CBOR,
    find: 'if (order < 0) return null;',
    replace: 'if (order <= 0) return null;',
  },
  {
    name: 'cbor-takes-keys-in-any-order',
    targets: ['cbor'],
    file: CBOR,
    find: 'if (order < 0) return null;',
    replace: 'if (order !== 0) return null;',
  },
  {
    name: 'cbor-skips-the-depth-limit',
    targets: ['cbor'],
    file: CBOR,
    find: 'this.#levels.length >= this.#maxDepth',
    replace: 'this.#levels.length > this.#maxDepth',
  },
  {
    name: 'cbor-ignores-bytes-after-the-item',
    targets: ['cbor'],
    file: CBOR,
    find: "this.#offset === this.#bytes.length ? null : malformed('bytes after the item')",
    replace: 'null',
  },
  {
    name: 'cbor-takes-text-that-is-not-utf-8',
    targets: ['cbor'],
    file: CBOR,
    find: "return isUtf8(bytes, start, this.#offset) ? null : malformed('a text that is not UTF-8');",
    replace: 'return null;',
  },
  {
    name: 'envelope-takes-an-unprotected-header',
    targets: ['envelope'],
    file: COSE,
    find: 'unprotected.size !== 1',
    replace: 'unprotected.size > 2',
  },
  {
    name: 'envelope-does-not-look-at-the-algorithm',
    targets: ['envelope'],
    file: COSE,
    find: 'if (map.get(LABEL.algorithm) !== ALGORITHM[authentication])',
    replace: 'if (map.get(LABEL.algorithm) === undefined)',
  },
  {
    name: 'signature-does-not-cover-the-payload',
    targets: ['authentic'],
    file: 'packages/verify/src/verified.ts',
    find: "if (!authentic) return refuse(rejection('bad-authenticator', { type: of.type, holder }));",
    replace:
      "if (!authentic && envelope.payload.length % 2 === 0) return refuse(rejection('bad-authenticator', { type: of.type, holder }));",
  },
  {
    name: 'digest-covers-the-authenticator',
    targets: ['envelope'],
    file: COSE,
    find: "sha256(encode(['Digest', message.protectedHeader, message.payload]))",
    replace:
      "sha256(encode(['Digest', message.protectedHeader, message.payload, (message as Envelope).authenticator ?? null]))",
  },
  {
    name: 'schema-drops-unknown-fields',
    targets: ['messages', 'interfaces'],
    file: SCHEMA,
    find: 'if (known !== value.size) throw unknownField',
    replace: 'if (known > value.size) throw unknownField',
  },
  {
    name: 'schema-takes-negative-amounts',
    targets: ['messages', 'interfaces'],
    file: SCHEMA,
    find: 'if (amount < 0n || amount > MAX_MILLS)',
    replace: 'if (amount > MAX_MILLS)',
  },
  {
    name: 'schema-takes-amounts-beyond-64-bits',
    targets: ['messages', 'interfaces'],
    file: SCHEMA,
    find: 'if (amount < 0n || amount > MAX_MILLS)',
    replace: 'if (amount < 0n)',
  },
  {
    name: 'frame-length-is-off-by-one',
    targets: ['frames'],
    file: FRAMES,
    find: 'if (buffer.length < end) {',
    replace: 'if (buffer.length < end - 1) {',
  },
  {
    name: 'frame-bound-is-off-by-one',
    targets: ['frames'],
    file: FRAMES,
    find: 'if (length > this.#bytesMax) {',
    replace: 'if (length > this.#bytesMax + 1) {',
  },
  {
    name: 'frames-in-hand-wait-for-ever-after-a-pause',
    targets: ['frames'],
    file: FRAMES,
    find: 'this.#stream.resume();\n    this.#deliver();',
    replace: 'this.#stream.resume();',
  },
  {
    name: 'frame-reader-spins',
    targets: ['frames'],
    file: FRAMES,
    find: 'this.#wanted = end;',
    replace: 'this.#wanted = LENGTH_BYTES;',
  },
  {
    name: 'decoder-keeps-what-it-decoded',
    targets: ['cbor'],
    file: CBOR,
    find: 'const defect = new Walk(',
    replace:
      '((globalThis as unknown as { kept: Uint8Array[] }).kept ??= []).push(new Uint8Array(2_048)); const defect = new Walk(',
  },
  {
    name: 'indicium-ignores-unknown-flags',
    targets: ['indicium'],
    file: 'packages/protocol/src/layout.ts',
    find: 'if (flags > SPECIMEN)',
    replace: 'if (flags > 0x7f)',
  },
  {
    name: 'trust-bundle-takes-a-key-twice',
    targets: ['trust-bundle'],
    file: 'packages/verify/src/trust-bundle.ts',
    find: 'key.role === role && key.epoch === epoch',
    replace: 'key.role === role && key.epoch === epoch && key.publicKey === publicKey',
  },
  {
    name: 'programme-takes-a-rate-above-one',
    targets: ['programme'],
    file: 'packages/tariff/src/programme.ts',
    find: 'if (numerator === 0n || numerator > denominator) {',
    replace: 'if (numerator === 0n) {',
  },
  {
    name: 'tariff-takes-falling-prices',
    targets: ['tariff'],
    file: 'packages/tariff/src/tariff.ts',
    find: 'if (price < (prices[step - 1] ?? 0n)) throw',
    replace: 'if (price < 0n) throw',
  },
  {
    name: 'weight-of-nothing',
    targets: ['texts'],
    file: 'packages/tariff/src/weight.ts',
    find: 'if (millionths === 0n) return notPositive(text, unit);',
    replace: '',
  },
  {
    name: 'csv-drops-a-quoted-line-end',
    targets: ['mailing'],
    file: MAILING,
    find: 'this.#reader.row(cells, this.rows);',
    replace: "this.#reader.row(cells.map((cell) => cell.replaceAll('\\n', ' ')), this.rows);",
  },
  {
    name: 'csv-drops-short-rows',
    targets: ['mailing'],
    file: MAILING,
    find: "if (cells.every((cell) => cell === '')) return;",
    replace: 'if (cells.every((cell) => cell.length < 2)) return;',
  },
  {
    name: 'host-takes-unknown-parameters',
    targets: ['host-api'],
    file: 'packages/host/src/api.ts',
    find: 'if (check === undefined) return `${name} is not a parameter`;',
    replace: 'if (check === undefined) return null;',
  },
];
