/**
 * Writes docs/protocol/vectors/: keys (published, worthless), trust bundle, certificates, and every vector with its
 * check and outcome. Signatures are taken over from the committed files as long as they verify: ECDSA's are random.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { parseEnvelope, toBeAuthenticated } from '@countermark/protocol/cose';
import { hex } from '@countermark/protocol/id';
import { LAYOUTS, parseIndicium } from '@countermark/protocol/layout';
import { parsePayload } from '@countermark/protocol/message';
import { ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';
import { sha256 } from '@countermark/node-platform/verification';
import { envelopeFacts, outcomeOf, strangersTrust, type Vector, vectorsOf } from '../vectors/vectors.ts';
import {
  buildWorld,
  CODING_DEVICE,
  indicium,
  type Keep,
  macKey,
  SIGNING_DEVICE,
  testPublicKey,
  trustedRoleKeys,
} from '../vectors/world.ts';

const FOLDER = 'docs/protocol/vectors';

export const folders = [FOLDER];

/** Signatures of the committed vectors, by what they sign. */
function keptSignatures(): Keep {
  const kept = new Map<string, Uint8Array[]>();
  const add = (input: Uint8Array, signature: Uint8Array): void => {
    const name = hex(sha256(input));
    kept.set(name, [...(kept.get(name) ?? []), signature]);
  };
  const note = (bytes: Uint8Array): void => {
    const envelope = parseEnvelope(bytes);
    if (envelope.ok) {
      add(toBeAuthenticated(envelope.value), envelope.value.authenticator);
      for (const certificate of envelope.value.certificates) note(certificate);
      // A rotation request has a signed request in it.
      const outer = parsePayload(ROTATION_REQUEST, envelope.value);
      if (outer.ok) note(outer.value.request);
    }
    const symbol = parseIndicium(bytes);
    if (symbol.ok && symbol.value.indicium.layout === LAYOUTS.signature)
      add(symbol.value.input, symbol.value.authenticator);
  };
  const folder = new URL(`../../${FOLDER}/`, import.meta.url);
  try {
    for (const name of readdirSync(folder)) {
      for (const [text] of readFileSync(new URL(name, folder), 'utf8').matchAll(/[0-9a-f]{128,}/g)) {
        note(Uint8Array.from(Buffer.from(text, 'hex')));
      }
    }
  } catch {
    // The first time there is nothing to keep.
  }
  return (input) => kept.get(hex(sha256(input))) ?? [];
}

export function documents(): { path: string; content: string }[] {
  const world = buildWorld(keptSignatures());
  const certificates = Object.values(world.certificates);
  const trust = strangersTrust(certificates);
  const vectors = vectorsOf(world);
  for (const vector of vectors) {
    const outcome = outcomeOf(vector, trust);
    if (outcome !== vector.outcome)
      throw new Error(`The vector "${vector.name}" gives ${outcome}, not ${vector.outcome}.`);
  }
  const json = (value: unknown): string => `${JSON.stringify(value, null, 1)}\n`;
  const batch = world.batch;
  return [
    {
      path: `${FOLDER}/trust-bundle.json`,
      content: formatTrustBundle({
        keys: trustedRoleKeys(),
        agreementKey: testPublicKey('agreement'),
        sessionAuthority: Uint8Array.of(0x30, 0x00),
      }),
    },
    { path: `${FOLDER}/device-certificates.json`, content: json({ certificates: certificates.map(hex) }) },
    {
      path: `${FOLDER}/accepted.json`,
      content: json({ vectors: vectors.filter((vector) => !isRejected(vector)).map(printed) }),
    },
    { path: `${FOLDER}/rejected.json`, content: json({ vectors: vectors.filter(isRejected).map(printed) }) },
    {
      path: `${FOLDER}/indicia.json`,
      content: json({
        vectors: [SIGNING_DEVICE, CODING_DEVICE].map((device) => {
          const payload = indicium(world, device);
          const parsed = parseIndicium(payload);
          if (!parsed.ok) throw new Error('not an indicium');
          const { layout: _, ...fields } = parsed.value.indicium;
          return {
            name: `an indicium of ${device}`,
            payload: hex(payload),
            toBeAuthenticated: hex(parsed.value.input),
            authenticator: hex(parsed.value.authenticator),
            fields: {
              ...fields,
              postageMills: String(fields.postageMills),
              ascendingMills: String(fields.ascendingMills),
            },
          };
        }),
      }),
    },
    {
      path: `${FOLDER}/merkle.json`,
      content: json({
        pieces: batch.pieces.map((piece) => ({
          salt: hex(piece.salt),
          record: hex(piece.record),
          leaf: hex(piece.leaf),
        })),
        root: hex(batch.root),
        proof: { index: 1, size: 3, path: batch.path.map(hex) },
      }),
    },
    {
      path: `${FOLDER}/mac-keys.json`,
      content: json({
        device: CODING_DEVICE,
        agreementKey: hex(testPublicKey(`${CODING_DEVICE} agreement`)),
        agreementPeer: hex(testPublicKey('agreement')),
        epoch: 1,
        statistics: hex(macKey(CODING_DEVICE, 1, 'statistics')),
        indicium: hex(macKey(CODING_DEVICE, 1, 'indicium')),
      }),
    },
  ];
}

function isRejected(vector: Vector): boolean {
  return vector.outcome !== 'accepted' && vector.outcome !== 'already-accepted';
}

function printed(vector: Vector): object {
  const { name, check, type, input, outcome } = vector;
  const facts = input.length === 1 && check !== 'cbor' ? envelopeFacts(input[0] as Uint8Array) : null;
  return {
    name,
    check,
    ...(type === undefined ? {} : { type }),
    input: input.map(shortHex),
    outcome,
    ...(facts ?? {}),
  };
}

/** Hex; a long run of zero bytes at the end is written `…(00 x N)`. */
function shortHex(bytes: Uint8Array): string {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end -= 1;
  return bytes.length - end > 1_000 ? `${hex(bytes.subarray(0, end))}(00 x ${bytes.length - end})` : hex(bytes);
}
