/**
 * Every schema: payloads of messages, and the requests and answers of the local interfaces and of HTTP. What parses encodes
 * to the same bytes again; amounts are within 0 and 2^63-1; texts carry no control characters.
 *
 * The first byte of an input says which schema, the rest is the CBOR.
 */
import { FRAME_LIMITS } from '@countermark/protocol/cbor';
import { parseEnvelope } from '@countermark/protocol/cose';
import { answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { ACCEPTANCE, CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import {
  deliveryAnswersSchema,
  deliverySchema,
  grantListSchema,
  recordListSchema,
} from '@countermark/protocol/interfaces/delivery';
import { HOST } from '@countermark/protocol/interfaces/host';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { MESSAGES } from '@countermark/protocol/messages/catalogue';
import { MAX_MILLS } from '@countermark/protocol/money';
import { encodeWith, parseBytes, type Schema } from '@countermark/protocol/schema';
import { mutateCbor } from '../cbor-tree.ts';
import { exampleOf } from '../cddl-values.ts';
import { join, type Mutation } from '../mutation.ts';
import { Random } from '../random.ts';
import { ACCEPTED, must, mustEqual, type Opened, type Target } from '../target.ts';
import { acceptedVectors } from '../vectors.ts';

type Named = { readonly name: string; readonly schema: Schema<unknown> };

/** As schemas of anything: what they parse goes back into the same one. */
function operations(of: Readonly<Record<string, unknown>>): Named[] {
  return Object.values(of as Record<string, Operation<unknown, unknown>>).flatMap(({ name, request, answer }) => [
    { name: `${name} request`, schema: request },
    { name: `${name} answer`, schema: answer },
  ]);
}

const messages: readonly Named[] = MESSAGES.map(({ type, schema }) => ({ name: type, schema }));
const interfaces: readonly Named[] = [
  ...operations(PSD),
  ...operations(CRYPTOGRAPHIC_DEVICE),
  ...operations(ACCEPTANCE),
  ...operations({ frank: HOST.frank }),
  ...Object.entries({
    submissionSchema,
    answersSchema,
    deliverySchema,
    deliveryAnswersSchema,
    grantListSchema,
    recordListSchema,
  }).map(([name, schema]) => ({ name, schema: schema })),
];

/** The schema's number stays, mostly. */
const mutateBehindNumber: Mutation = (input, material) => {
  const first = material.random.once(40) ? material.random.bytes(1) : input.subarray(0, 1);
  return join(first, mutateCbor(input.subarray(1), material));
};

function opened(schemas: readonly Named[], payloads: readonly Uint8Array[]): Opened {
  const random = new Random('examples');
  const examples = schemas.flatMap(({ name, schema }, i) =>
    Array.from({ length: 4 }, () => {
      const example = exampleOf(schema, random);
      must(parseBytes(schema, example, FRAME_LIMITS).ok, `${name}: what its CDDL describes is refused`);
      return join(Uint8Array.of(i), example);
    }),
  );
  return {
    seeds: [...examples, ...payloads],
    run: (input) => {
      const named = schemas[(input[0] ?? 0) % schemas.length] as Named;
      const bytes = input.subarray(1);
      const result = parseBytes(named.schema, bytes, FRAME_LIMITS);
      if (!result.ok) return result.rejection.code;
      checkValue(result.value);
      mustEqual(encodeWith(named.schema, result.value), bytes, `${named.name} encodes to other bytes`);
      return ACCEPTED;
    },
  };
}

function checkValue(value: unknown): void {
  if (typeof value === 'bigint') must(value >= 0n && value <= MAX_MILLS, 'an amount outside 0..2^63-1');
  else if (typeof value === 'number') must(Number.isSafeInteger(value) && value >= 0, 'a number that is no count');
  else if (typeof value === 'object' && value !== null && !(value instanceof Uint8Array)) {
    // Details of a rejection are for people, and may be any integers.
    for (const [name, inner] of Object.entries(value)) if (name !== 'detail') checkValue(inner);
  }
}

/** Payloads of the vectors, each behind the number of its schema. */
function vectorPayloads(): Uint8Array[] {
  return acceptedVectors().flatMap(({ input }) =>
    input.flatMap((bytes) => {
      const envelope = parseEnvelope(bytes);
      const number = envelope.ok ? messages.findIndex(({ name }) => name === envelope.value.type) : -1;
      return envelope.ok && number >= 0 ? [join(Uint8Array.of(number), envelope.value.payload)] : [];
    }),
  );
}

export const messagesTarget: Target = {
  name: 'messages',
  about: 'payload of every message: encodes to the same bytes, amounts within 0..2^63-1; what its CDDL allows is taken',
  words: ['protocol'],
  maxBytes: 8_192,
  mutations: [mutateBehindNumber],
  open: () => opened(messages, vectorPayloads()),
};

export const interfacesTarget: Target = {
  name: 'interfaces',
  about: 'requests and answers of PSD, cryptographic device, host, server and authority: the same',
  words: ['protocol'],
  maxBytes: 8_192,
  mutations: [mutateBehindNumber],
  open: () => opened(interfaces, []),
};
