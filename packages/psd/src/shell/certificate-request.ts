/**
 * The PKCS#10 request (RFC 2986) with which the device asks for an X.509 certificate of the signature key that it has in use.
 *
 * Guarantees: it says the device's id and its public key, and is signed with that key. Written out here in DER (X.690), because the
 * device loads no X.509 library: it needs one request, of one form, and never parses one.
 */
import { createPublicKey, type KeyObject, sign } from 'node:crypto';

const SEQUENCE = 0x30;
const SET = 0x31;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const UTF8_STRING = 0x0c;
/** `[0]`, constructed: the attributes, of which there are none. */
const ATTRIBUTES = 0xa0;
/** 2.5.4.3 */
const COMMON_NAME = Uint8Array.of(0x06, 0x03, 0x55, 0x04, 0x03);
/** 1.2.840.10045.4.3.2 */
const ECDSA_WITH_SHA256 = Uint8Array.of(0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02);

/** The request (DER) for the key's public half. */
export function certificateRequest(device: string, key: KeyObject): Uint8Array {
  const name = der(SEQUENCE, der(SET, der(SEQUENCE, COMMON_NAME, der(UTF8_STRING, new TextEncoder().encode(device)))));
  const publicKey = createPublicKey(key).export({ type: 'spki', format: 'der' });
  const info = der(SEQUENCE, der(INTEGER, Uint8Array.of(0)), name, publicKey, der(ATTRIBUTES));
  const signature = sign('sha256', info, { key, dsaEncoding: 'der' });
  return der(SEQUENCE, info, der(SEQUENCE, ECDSA_WITH_SHA256), der(BIT_STRING, Uint8Array.of(0), signature));
}

/** A value with its tag and length; at most 65,535 bytes. */
function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const lengthBytes =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, Math.floor(length / 0x100), length % 0x100];
  return new Uint8Array(Buffer.concat([Uint8Array.of(tag, ...lengthBytes), ...parts]));
}
