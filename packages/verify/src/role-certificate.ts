/**
 * Keys of roles that are not in the trust bundle, by the certificates that a message carries.
 *
 * Guarantees: a key is accepted for the role and epoch that its certificate names and for no other; every certificate was signed by an
 * issuing key that is trusted, or that one before it in the list certified; an issuing key is certified only by one of an earlier epoch. A
 * granting key, which is the postal authority's, only by an earlier granting key, in the same way.
 * Does not know when anything was signed: a key that was rotated out is as good here as before (docs/decisions/keys.md).
 */
import { type Envelope, parseEnvelope, toBeAuthenticated } from '@countermark/protocol/cose';
import { hex } from '@countermark/protocol/id';
import { parsePayload, type Role } from '@countermark/protocol/message';
import { GRANTING_CERTIFICATE } from '@countermark/protocol/messages/granting-certificate';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { accept, type Result } from '@countermark/protocol/result';
import type { VerificationPort } from './verification-port.ts';

/** The public part of the key of an epoch of a role that certifies others, or null where none is trusted. */
export type CertifyingKeys = (role: Role, epoch: number) => Uint8Array | null;

/** What a certificate says. */
type Certified = { readonly role: string; readonly epoch: number; readonly publicKey: Uint8Array };

/**
 * The public key of the role and epoch by which the message claims to be signed, or null where its certificates do not lead there.
 * Certificates that no known key signed are passed over: a newer bundle knows only what came later.
 */
export function certifiedRoleKey(
  { key, certificates }: Pick<Envelope, 'key' | 'certificates'>,
  trusted: CertifyingKeys,
  port: VerificationPort,
): Uint8Array | null {
  // Who certifies the keys of this role, and succeeds by its own certificates.
  const certifying = (key.holder === 'granting' ? GRANTING_CERTIFICATE : ROLE_CERTIFICATE).authenticatedBy as Role;
  const successors = new Map<number, Uint8Array>();
  let last: Certified | null = null;
  for (const bytes of certificates) {
    last = null;
    const parsed = parseEnvelope(bytes);
    if (!parsed.ok || parsed.value.certificates.length > 0) return null;
    const { holder, epoch } = parsed.value.key;
    if (parsed.value.authentication !== 'signature' || holder !== certifying) return null;
    const signer = successors.get(epoch) ?? trusted(certifying, epoch);
    if (signer === null) continue;
    const said = certificateUnder(signer, parsed.value, port);
    if (said?.ok !== true) return null;
    last = said.value;
    if (last.role !== certifying) continue;
    if (last.epoch <= epoch) return null;
    successors.set(last.epoch, last.publicKey);
  }
  return last?.role === key.holder && last.epoch === key.epoch ? last.publicKey : null;
}

/** The same certificates come with every message: what one signature said of one key is kept, a bounded number of times. */
const checked = new WeakMap<VerificationPort, Map<string, Result<Certified> | null>>();
const CHECKED_MAX = 256;

/** What the certificate says, or null where the key did not sign it. */
function certificateUnder(signer: Uint8Array, envelope: Envelope, port: VerificationPort): Result<Certified> | null {
  const input = toBeAuthenticated(envelope);
  // All that the answer depends on: whoever asks with the same gets the same.
  const name = [signer, input, envelope.authenticator].map((bytes) => hex(port.sha256(bytes))).join(' ');
  const memory = checked.get(port) ?? new Map<string, Result<Certified> | null>();
  checked.set(port, memory);
  const known = memory.get(name);
  if (known !== undefined) return known;
  const authentic = port.verifySignature(signer, input, envelope.authenticator);
  const said = authentic ? saidBy(envelope) : null;
  if (memory.size >= CHECKED_MAX) memory.clear();
  memory.set(name, said);
  return said;
}

function saidBy(envelope: Envelope): Result<Certified> {
  if (envelope.key.holder !== GRANTING_CERTIFICATE.authenticatedBy) return parsePayload(ROLE_CERTIFICATE, envelope);
  const granting = parsePayload(GRANTING_CERTIFICATE, envelope);
  return granting.ok ? accept({ role: 'granting', ...granting.value }) : granting;
}
