/**
 * The PKCS#10 request (RFC 2986) with which the device asks for an X.509 certificate of its signature key.
 *
 * Guarantees: it says the device's id and its public key, where it is enrolled with a one-time code the digest of that too, and is signed with
 * that key. Written out here in DER (X.690), because the device loads no X.509 library: it needs one request, of one form, and never
 * parses one.
 */
import { publicKeyInfo, SIGNATURE_BYTES } from '@countermark/node-platform/signing';
import { hex } from '@countermark/protocol/id';
import type { SigningKey } from './key-holder.ts';

const SEQUENCE = 0x30;
const SET = 0x31;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const UTF8_STRING = 0x0c;
/** `[0]`, constructed: the attributes. */
const ATTRIBUTES = 0xa0;
/** 2.5.4.3 */
const COMMON_NAME = Uint8Array.of(0x06, 0x03, 0x55, 0x04, 0x03);
/** 1.2.840.10045.4.3.2 */
const ECDSA_WITH_SHA256 = Uint8Array.of(0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02);
/** 1.2.840.113549.1.9.7: challengePassword (RFC 2985, 5.4.1) */
const CHALLENGE = Uint8Array.of(0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07);

/** The request (DER) for the key's public half; `codeDigest` stands in it in hex. */
export function certificateRequest(
  device: string,
  key: Pick<SigningKey, 'publicKey' | 'sign'>,
  codeDigest?: Uint8Array,
): Uint8Array {
  const name = der(SEQUENCE, der(SET, der(SEQUENCE, COMMON_NAME, text(device))));
  const attributes = codeDigest === undefined ? [] : [der(SEQUENCE, CHALLENGE, der(SET, text(hex(codeDigest))))];
  const version = der(INTEGER, Uint8Array.of(0));
  const info = der(SEQUENCE, version, name, publicKeyInfo(key.publicKey), der(ATTRIBUTES, ...attributes));
  const signature = der(BIT_STRING, Uint8Array.of(0), signatureValue(key.sign(info)));
  return der(SEQUENCE, info, der(SEQUENCE, ECDSA_WITH_SHA256), signature);
}

function text(value: string): Uint8Array {
  return der(UTF8_STRING, new TextEncoder().encode(value));
}

/** ECDSA-Sig-Value (RFC 5480) of r || s. */
function signatureValue(signature: Uint8Array): Uint8Array {
  const half = SIGNATURE_BYTES / 2;
  return der(SEQUENCE, positive(signature.subarray(0, half)), positive(signature.subarray(half)));
}

/** A positive INTEGER: without leading zeros, but for the one that keeps it positive. */
function positive(bytes: Uint8Array): Uint8Array {
  const first = bytes.findIndex((byte) => byte !== 0);
  const shortest = bytes.subarray(first === -1 ? bytes.length - 1 : first);
  return der(INTEGER, ...((shortest[0] ?? 0) < 0x80 ? [] : [Uint8Array.of(0)]), shortest);
}

/** A value with its tag and length; at most 65,535 bytes. */
function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const lengthBytes =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, Math.floor(length / 0x100), length % 0x100];
  return new Uint8Array(Buffer.concat([Uint8Array.of(tag, ...lengthBytes), ...parts]));
}
