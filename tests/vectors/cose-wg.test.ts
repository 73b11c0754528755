/**
 * The COSE working group's published vectors (cose-wg/Examples, as the package cose-js carries them for its own tests): single
 * signatures and codes.
 *
 * None of them is an envelope of ours, because ours have type and version in their protected header and say all in it: the
 * parser refuses every one. What an envelope is made of is held against them all the same, for the two algorithms that we
 * have: CBOR, the bytes that are authenticated, ES256, and HMAC 256/256. Not ours, and so only refused: other algorithms (ES384, ES512,
 * HS384, HS512, HS256/64), and messages with several signers or recipients (tags 98 and 97).
 * Skips visibly where the package is not installed.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { equalMacs, hmacSha256 } from '@countermark/node-platform/signing';
import { verifySignature } from '@countermark/node-platform/verification';
import { concat } from '@countermark/protocol/bytes';
import { type CborValue, decode, encode } from '@countermark/protocol/cbor';
import { ALGORITHM, parseEnvelope } from '@countermark/protocol/cose';
import { describe, expect, it } from 'vitest';

type Key = { readonly x?: string; readonly y?: string; readonly k?: string };
type Example = {
  readonly title: string;
  readonly fail?: boolean;
  readonly input: {
    readonly sign0?: { readonly key: Key; readonly external?: string };
    readonly mac0?: { readonly external?: string; readonly recipients: readonly { readonly key: Key }[] };
  };
  readonly intermediates: { readonly ToBeSign_hex?: string; readonly ToMac_hex?: string };
  readonly output: { readonly cbor: string };
};

const EXAMPLES = ['sign1-tests', 'mac0-tests', 'ecdsa-examples', 'hmac-examples'];

const require = createRequire(import.meta.url);

function folder(): string | null {
  try {
    const examples = join(dirname(require.resolve('cose-js/package.json')), 'test', 'Examples');
    return existsSync(examples) ? examples : null;
  } catch {
    return null;
  }
}

const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));
const base64 = (text = ''): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64url'));
const root = folder();
const examples: readonly (readonly [string, Example])[] =
  root === null
    ? []
    : EXAMPLES.flatMap((name) =>
        readdirSync(join(root, name))
          .filter((file) => file.endsWith('.json'))
          .map((file) => [`${name}/${file}`, JSON.parse(readFileSync(join(root, name, file), 'utf8')) as Example]),
      );

/** The parts of a message with one signature or code and our algorithm for it; null for any other. */
function ours(message: Uint8Array, kind: 'signature' | 'mac') {
  const tag = kind === 'signature' ? 0xd2 : 0xd1;
  // Without its tag it is known by its place; with another it is another message.
  const body = message[0] === tag ? message.subarray(1) : message;
  const parts = decode(body);
  if (!parts.ok || !Array.isArray(parts.value) || parts.value.length !== 4) return null;
  const [header, unprotected, payload, authenticator] = parts.value as [Uint8Array, CborValue, Uint8Array, Uint8Array];
  const inside = header.length === 0 ? null : decode(header);
  const algorithm = [inside?.ok === true ? inside.value : null, unprotected]
    .map((map) => (map instanceof Map ? (map.get(1) as CborValue | undefined) : undefined))
    .find((value) => value !== undefined);
  if (algorithm !== ALGORITHM[kind]) return null;
  // RFC 9052, 3: an empty protected header is authenticated as a string of no bytes, however it was sent.
  const isEmpty = header.length === 0 || (header.length === 1 && header[0] === 0xa0);
  return { header: isEmpty ? new Uint8Array() : header, payload, authenticator };
}

/** Whether it is authentic, and over which bytes. */
function verified({ input, output }: Example): { readonly authentic: boolean; readonly over: Uint8Array } | null {
  const kind = input.sign0 === undefined ? 'mac' : 'signature';
  const parts = ours(bytesOf(output.cbor), kind);
  if (parts === null) return null;
  const { header, payload, authenticator } = parts;
  const external = bytesOf((input.sign0 ?? input.mac0)?.external ?? '');
  const over = encode([kind === 'signature' ? 'Signature1' : 'MAC0', header, external, payload]);
  if (input.sign0 !== undefined) {
    const { x, y } = input.sign0.key;
    const point = concat([Uint8Array.of(4), base64(x), base64(y)]);
    return { authentic: verifySignature(point, over, authenticator), over };
  }
  const key = base64(input.mac0?.recipients[0]?.key.k);
  return { authentic: equalMacs(hmacSha256(key, over), authenticator), over };
}

const single = examples.filter(([, { input }]) => input.sign0 !== undefined || input.mac0 !== undefined);
const applicable = single.filter(([, example]) => verified(example) !== null);

describe.skipIf(root === null)('Vectors of the COSE working group', () => {
  it.each(examples)('%s is no envelope of ours', (_, { output }) => {
    const parsed = parseEnvelope(bytesOf(output.cbor));
    expect(parsed.ok ? 'accepted' : parsed.rejection.code).toBe('envelope-malformed');
  });

  it.each(applicable)('%s is judged as it says', (_, example) => {
    expect(verified(example)?.authentic).toBe(example.fail !== true);
  });

  it.each(applicable.filter(([, { fail }]) => fail !== true))('%s is made over the bytes it says', (_, example) => {
    const { ToBeSign_hex: signed, ToMac_hex: coded } = example.intermediates;
    expect(verified(example)?.over).toEqual(bytesOf(signed ?? coded ?? ''));
  });

  it('has no other that fails for us, and enough of ours to say anything', () => {
    const others = single.filter(([name]) => !applicable.some(([known]) => known === name));
    // Another tag or algorithm: refused before any key is looked at.
    expect(others.map(([name]) => name)).toEqual([
      'sign1-tests/sign-fail-01.json',
      'sign1-tests/sign-fail-03.json',
      'sign1-tests/sign-fail-04.json',
      'mac0-tests/mac-fail-01.json',
      'mac0-tests/mac-fail-03.json',
      'mac0-tests/mac-fail-04.json',
      'ecdsa-examples/ecdsa-sig-02.json',
      'ecdsa-examples/ecdsa-sig-03.json',
      'ecdsa-examples/ecdsa-sig-04.json',
      'hmac-examples/HMac-enc-02.json',
      'hmac-examples/HMac-enc-03.json',
      'hmac-examples/HMac-enc-05.json',
    ]);
    expect(applicable.length).toBe(16);
  });
});
