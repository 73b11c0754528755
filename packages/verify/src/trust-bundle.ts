/**
 * The trust bundle: the public keys on which every offline check stands, as a small JSON file.
 *
 * Guarantees that a parsed bundle has well-formed keys of known roles, each once per epoch. It carries no secret and
 * proves nothing by itself: it must reach its reader by a way that the reader trusts.
 */
import { hex, unhex } from '@countermark/protocol/id';
import { CERTIFIED_ROLES, ROLE_EPOCHS_MAX, ROLES, type Role } from '@countermark/protocol/message';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, type Trust, type Verified, verifyMessage } from './verified.ts';

export type TrustedKey = { readonly role: Role; readonly epoch: number; readonly publicKey: Uint8Array };

export type TrustBundle = {
  readonly keys: readonly TrustedKey[];
  /**
   * Public agreement key of the cryptographic device, and the authority of its session certificates (DER), as they were when it was made:
   * a device takes those that its certificate names.
   */
  readonly agreementKey: Uint8Array;
  readonly sessionAuthority: Uint8Array;
};

/** As in every message that names a key (`epoch` of protocol/fields.ts). */
const MAX_EPOCH = 65_535;
/** Every key that the roles of the cryptographic device can ever have, and as many of the postal authority. */
const MAX_KEYS = (CERTIFIED_ROLES.length + 1) * ROLE_EPOCHS_MAX;

/** The bundle as the text of `trust-bundle.json`. Keys are hex: 65 bytes, uncompressed P-256 points. */
export function formatTrustBundle(bundle: TrustBundle): string {
  return `${JSON.stringify(
    {
      schema: 1,
      keys: bundle.keys.map((key) => ({
        role: key.role,
        epoch: key.epoch,
        algorithm: 'ES256',
        publicKey: hex(key.publicKey),
      })),
      agreementKey: hex(bundle.agreementKey),
      sessionAuthority: hex(bundle.sessionAuthority),
    },
    null,
    2,
  )}\n`;
}

/** Parses the text of a bundle. Rejection: `malformed`. */
export function parseTrustBundle(text: string): Result<TrustBundle> {
  const bad = (path: string, reason: string) =>
    refuse(rejection('malformed', { path: `trust bundle ${path}`, reason }));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return bad('(whole)', 'it is not JSON');
  }
  const bundle = value as {
    schema?: unknown;
    keys?: unknown;
    agreementKey?: unknown;
    sessionAuthority?: unknown;
  } | null;
  if (typeof bundle !== 'object' || bundle === null || bundle.schema !== 1) return bad('schema', 'it must be 1');
  if (!Array.isArray(bundle.keys) || bundle.keys.length > MAX_KEYS) return bad('keys', 'a list is expected');
  const agreementKey = bytesOf(bundle.agreementKey, 65);
  const sessionAuthority = bytesOf(bundle.sessionAuthority, null);
  if (agreementKey === null) return bad('agreementKey', '65 bytes in hex are expected');
  if (sessionAuthority === null) return bad('sessionAuthority', 'a certificate in hex is expected');
  const keys: TrustedKey[] = [];
  for (const [i, entry] of (
    bundle.keys as readonly ({ role?: unknown; epoch?: unknown; publicKey?: unknown } | null)[]
  ).entries()) {
    if (entry === null) return bad(`keys.${i}`, 'a key is expected');
    const role = ROLES.find((known) => known === entry.role);
    const publicKey = bytesOf(entry.publicKey, 65);
    if (role === undefined) return bad(`keys.${i}.role`, `one of ${ROLES.join(', ')} is expected`);
    const { epoch } = entry;
    if (typeof epoch !== 'number' || !Number.isInteger(epoch) || epoch < 1 || epoch > MAX_EPOCH)
      return bad(`keys.${i}.epoch`, `a number from 1 to ${MAX_EPOCH} is expected`);
    if (publicKey?.[0] !== 4) return bad(`keys.${i}.publicKey`, 'an uncompressed P-256 point in hex is expected');
    if (keys.some((key) => key.role === role && key.epoch === epoch)) return bad(`keys.${i}`, 'the key stands twice');
    keys.push({ role, epoch, publicKey });
  }
  return accept({ keys, agreementKey, sessionAuthority });
}

function bytesOf(value: unknown, length: number | null): Uint8Array | null {
  const bytes = typeof value === 'string' ? unhex(value) : null;
  return bytes !== null && bytes.length > 0 && (length === null || bytes.length === length) ? bytes : null;
}

/**
 * The bundle with the keys that role certificates add to it, each verified under it or under what others added, in whatever order.
 * Where a bundle has another key for the role and epoch, the certificate's stands. What does not verify is left out.
 */
export function withRoleCertificates(
  bundle: TrustBundle,
  certificates: Iterable<Uint8Array>,
  port: Trust['port'],
): TrustBundle {
  let { keys, agreementKey } = bundle;
  let agreementEpoch = 1;
  let left = [...certificates];
  for (let before = Infinity; left.length < before; ) {
    before = left.length;
    left = left.filter((bytes) => {
      const verified = verifyMessage(ROLE_CERTIFICATE, bytes, { port, keys: trustedKeys({ ...bundle, keys }) });
      if (!verified.ok) return true;
      const { role, epoch, publicKey } = verified.value.message;
      if (role === 'agreement' && epoch > agreementEpoch) {
        agreementKey = publicKey;
        agreementEpoch = epoch;
      }
      // A bundle has the keys by which messages are signed.
      if (role === 'agreement' || role === 'session-authority') return false;
      keys = [...keys.filter((key) => key.role !== role || key.epoch !== epoch), { role, epoch, publicKey }];
      return false;
    });
  }
  return { ...bundle, keys, agreementKey };
}

/** The keys of a bundle and of devices whose certificates were verified. */
export function trustedKeys(bundle: TrustBundle, certificates: Iterable<Verified<DeviceCertificate>> = []): KeySource {
  const byId = new Map<string, { publicKey: Uint8Array; authentication: 'signature' | 'mac' }>();
  for (const { role, epoch, publicKey } of bundle.keys)
    byId.set(`${role}#${epoch}`, { publicKey, authentication: 'signature' });
  for (const { message } of certificates) {
    byId.set(`${message.device}#${message.epoch}`, {
      publicKey: message.publicKey,
      authentication: message.authentication,
    });
  }
  return (key) => byId.get(`${key.holder}#${key.epoch}`) ?? null;
}
