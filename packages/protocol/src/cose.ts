/**
 * The envelope of every authenticated message: COSE_Sign1 with ES256 or COSE_Mac0 with HMAC 256/256 (RFC 9052, 9053).
 *
 * Guarantees: exactly one accepted form (tagged, payload inside, protected header with algorithm, key id, type and version and
 * nothing else; unprotected header empty, or with the certificates of the role's key that signed: `messages/role-certificate.ts`, `granting-certificate.ts`). Type
 * and version stand in the protected header and again in the external data, so that no message can stand in for another. The digest of
 * a message covers protected header and payload only: ECDSA signatures are malleable, and whoever carries a message can take
 * certificates away or add some; no digest may depend on either.
 * Does not hold keys: it says which bytes are authenticated; `verify` and the signers do the rest.
 */
import { concat, utf8 } from './bytes.ts';
import { type CborValue, decode, encode, MESSAGE_LIMITS } from './cbor.ts';
import { type Digest, digestOf, type Sha256 } from './digest.ts';
import { DEVICE_ID } from './id.ts';
import { type Rejection, rejection } from './rejection.ts';
import { accept, type Result, refuse } from './result.ts';

/** COSE algorithm identifiers: ES256 (RFC 9053, 2.1) and HMAC 256/256 (RFC 9053, 3.1). */
export const ALGORITHM = { signature: -7, mac: 5 } as const;

/** How statistics and indicia of a device are authenticated: claim 2 or claim 3. */
export type Authentication = keyof typeof ALGORITHM;

const TAG = { signature: 0xd2, mac: 0xd1 } as const; // CBOR tags 18 and 17 as single bytes (RFC 9052, 2)
const CONTEXT = { signature: 'Signature1', mac: 'MAC0' } as const; // RFC 9052, 4.4 and 6.3
const LABEL = { algorithm: 1, keyId: 4, type: 16, version: -70_001, certificates: -70_002 } as const; // typ: RFC 9596; below -65536: private use
const TYPE_PREFIX = 'countermark/';
const AUTHENTICATOR_BYTES = { signature: 64, mac: 32 } as const;
/** Certificates that one message may carry: fifteen successions of the issuing key, and the role's own; sixteen of the granting key. */
export const CARRIED_MAX = 16;
export const CARRIED_BYTES = 256;

/** Who made the authenticator: a device id, or a role of the cryptographic device or authority, and the key's epoch. */
export type KeyId = { readonly holder: string; readonly epoch: number };

/** What is authenticated, before its authenticator exists. */
export type Unsealed = {
  readonly authentication: Authentication;
  readonly type: string;
  readonly version: number;
  readonly key: KeyId;
  readonly protectedHeader: Uint8Array;
  readonly payload: Uint8Array;
};

/** A parsed envelope: well-formed, nothing verified. */
export type Envelope = Unsealed & {
  readonly authenticator: Uint8Array;
  /** Role certificates from the unprotected header, oldest first; as unverified as the rest. */
  readonly certificates: readonly Uint8Array[];
};

/** A byte order mark is no part of a key id that may be left out: it makes it none. */
const utf8Decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const KEY_ID = /^([a-z0-9_-]{1,40})#([1-9]\d{0,8})$/;

/** A key id as it stands in the header and for people: `psd_0123456789abcdef#1`. */
export function keyIdText(key: KeyId): string {
  return `${key.holder}#${key.epoch}`;
}

/** The message of a payload, ready to be authenticated. */
export function unsealed(
  authentication: Authentication,
  type: string,
  version: number,
  key: KeyId,
  payload: Uint8Array,
): Unsealed {
  return { authentication, type, version, key, protectedHeader: header(authentication, type, version, key), payload };
}

/** The header of every message of one type under one key is the same: the last ones are kept. */
function header(authentication: Authentication, type: string, version: number, key: KeyId): Uint8Array {
  const name = `${authentication} ${type} ${version} ${keyIdText(key)}`;
  return kept(headers, name, () =>
    encode(
      new Map<CborValue, CborValue>([
        [LABEL.algorithm, ALGORITHM[authentication]],
        [LABEL.keyId, utf8(keyIdText(key))],
        [LABEL.type, TYPE_PREFIX + type],
        [LABEL.version, version],
      ]),
    ),
  );
}

const headers = new Map<string, Uint8Array>();
const externals = new Map<string, Uint8Array>();
const KEPT_MAX = 1_024;

function kept<T>(memory: Map<string, T>, name: string, make: () => T): T {
  const known = memory.get(name);
  if (known !== undefined) return known;
  if (memory.size >= KEPT_MAX) memory.clear();
  const made = make();
  memory.set(name, made);
  return made;
}

/** The external data (RFC 9052, 4.3): deterministic CBOR of ["countermark", type, version]. */
function externalData(message: Unsealed): Uint8Array {
  return kept(externals, `${message.type} ${message.version}`, () =>
    encode(['countermark', message.type, message.version]),
  );
}

/** The exact bytes that the signature or code is made over: Sig_structure or MAC_structure of RFC 9052. */
export function toBeAuthenticated(message: Unsealed): Uint8Array {
  return encode([CONTEXT[message.authentication], message.protectedHeader, externalData(message), message.payload]);
}

/** SHA-256 over the deterministic CBOR of ["Digest", protected header, payload]; never over the authenticator. */
export function messageDigest(message: Unsealed, sha256: Sha256): Digest {
  return digestOf(sha256(encode(['Digest', message.protectedHeader, message.payload])));
}

/** The envelope's bytes. `certificates`: of the role's key, where it is not the first. @throws RangeError for an authenticator of the wrong length. */
export function seal(
  message: Unsealed,
  authenticator: Uint8Array,
  certificates: readonly Uint8Array[] = NO_CERTIFICATES,
): Uint8Array {
  if (authenticator.length !== AUTHENTICATOR_BYTES[message.authentication]) {
    throw new RangeError(
      `An authenticator of ${authenticator.length} bytes does not belong to ${message.authentication}.`,
    );
  }
  return concat([
    Uint8Array.of(TAG[message.authentication]),
    encode([message.protectedHeader, unprotectedHeader(certificates), message.payload, authenticator]),
  ]);
}

const NO_CERTIFICATES: readonly Uint8Array[] = [];

function unprotectedHeader(certificates: readonly Uint8Array[]): CborValue {
  return new Map<CborValue, CborValue>(certificates.length === 0 ? [] : [[LABEL.certificates, certificates]]);
}

/** The certificates of an unprotected header; null where there is anything else in it. */
function carriedIn(unprotected: CborValue | undefined): readonly Uint8Array[] | null {
  if (!(unprotected instanceof Map)) return null;
  if (unprotected.size === 0) return NO_CERTIFICATES;
  const carried = (unprotected as ReadonlyMap<CborValue, CborValue>).get(LABEL.certificates);
  if (unprotected.size !== 1 || !Array.isArray(carried) || carried.length === 0) return null;
  if (carried.length > CARRIED_MAX) return null;
  const fits = (one: CborValue): one is Uint8Array => one instanceof Uint8Array && one.length <= CARRIED_BYTES;
  return carried.every(fits) ? carried : null;
}

function broken(reason: string): { readonly ok: false; readonly rejection: Rejection } {
  return refuse(rejection('envelope-malformed', { reason }));
}

/**
 * Parses an envelope. Rejections: those of `decode`, and `envelope-malformed`. The type may be any: whoever expects one
 * compares it, and the version, before the payload is parsed.
 */
export function parseEnvelope(bytes: Uint8Array): Result<Envelope> {
  const authentication = bytes[0] === TAG.signature ? 'signature' : bytes[0] === TAG.mac ? 'mac' : null;
  if (authentication === null) return broken('the tag 17 or 18 is missing');
  const body = decode(bytes.subarray(1), MESSAGE_LIMITS);
  if (!body.ok) return body;
  if (!Array.isArray(body.value) || body.value.length !== 4) return broken('four parts are expected');
  const [protectedHeader, unprotected, payload, authenticator] = body.value as readonly CborValue[];
  if (!(protectedHeader instanceof Uint8Array) || !(payload instanceof Uint8Array))
    return broken('header and payload are byte strings');
  const certificates = carriedIn(unprotected);
  if (certificates === null) return broken('the unprotected header has role certificates, or nothing');
  if (!(authenticator instanceof Uint8Array) || authenticator.length !== AUTHENTICATOR_BYTES[authentication]) {
    return broken('the authenticator has the wrong length');
  }
  const header = decode(protectedHeader, MESSAGE_LIMITS);
  if (!header.ok) return header;
  if (!(header.value instanceof Map) || header.value.size !== 4) return broken('the protected header has four entries');
  const map = header.value as ReadonlyMap<CborValue, CborValue>;
  const keyIdBytes = map.get(LABEL.keyId);
  const type = map.get(LABEL.type);
  const version = map.get(LABEL.version);
  if (map.get(LABEL.algorithm) !== ALGORITHM[authentication]) return broken('algorithm and tag do not belong together');
  if (!(keyIdBytes instanceof Uint8Array) || keyIdBytes.length > 64) return broken('the key id is missing');
  const keyId = KEY_ID.exec(utf8Decoder.decode(keyIdBytes));
  if (keyId === null) return broken('the key id is not holder#epoch');
  // What a device seals is stored and compared as it is: nobody hangs anything on it.
  if (certificates.length > 0 && (authentication === 'mac' || DEVICE_ID.test(keyId[1] as string)))
    return broken('role certificates beside what no role signed');
  if (typeof type !== 'string' || !/^countermark\/[a-z-]{1,40}$/.test(type)) return broken('the type is missing');
  if (typeof version !== 'number' || version < 1 || version > 65_535) return broken('the version is missing');
  return accept({
    authentication,
    type: type.slice(TYPE_PREFIX.length),
    version,
    key: { holder: keyId[1] as string, epoch: Number(keyId[2]) },
    protectedHeader,
    payload,
    authenticator,
    certificates,
  });
}
