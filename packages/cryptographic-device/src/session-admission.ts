/**
 * Which of the session certificates that were issued here still get a session.
 *
 * Guarantees: decided by this device's own register alone, anew for every session: only a certificate that stands in it, of the key
 * epoch in use or a later one, of a device that was neither withdrawn nor closed, and whose session key nobody revoked. A suspended
 * device keeps its sessions: what continues its chain is still accepted.
 * Does not look at dates and issuers (TLS does), nor at records: whoever is refused can hand in the same bytes without a session.
 */
import { sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { ENDED_EPOCH } from '@countermark/verify/chain';
import type { DeviceRegister } from './device-register.ts';

/** Why the device gets no session with the certificate (DER), or null. Rejection: `session-refused`. */
export function sessionRefusal(register: DeviceRegister, device: DeviceId, certificate: Uint8Array): Rejection | null {
  const refused = (reason: string): Rejection => rejection('session-refused', { device, reason });
  if (register.withdrawal(device) !== null) return refused('it was withdrawn for good');
  const inUse = register.epochInUse(device);
  if (inUse === ENDED_EPOCH) return refused('it was closed');
  const epoch = epochOf(register, device, certificate);
  if (epoch === null) return refused('its certificate is not one that was issued here');
  if (epoch < inUse) return refused(`its certificate is of key epoch ${epoch}, which gave way to ${inUse}`);
  if (epoch <= register.sessionsRevokedThrough(device)) return refused(`its session key of epoch ${epoch} was revoked`);
  return null;
}

/** The epoch of the keys that the certificate was issued with, or null. */
function epochOf(register: DeviceRegister, device: DeviceId, certificate: Uint8Array): number | null {
  for (let epoch = register.lastEpoch(device); epoch > 0; epoch -= 1) {
    const issued = register.certificate(device, epoch)?.message.sessionCertificate;
    if (issued !== undefined && sameBytes(issued, certificate)) return epoch;
  }
  return null;
}
