/**
 * Device certificates that a host gives back to a server which lost them with its registry: what it issued, of every epoch.
 *
 * They need no proof of who brings them: the issuing key has signed each.
 */
import { licenseeId } from '../fields.ts';
import { bytes, field, list, struct } from '../schema.ts';

/** Epochs of one device in one call. */
const MAX_CERTIFICATES = 256;

export const archivedCertificatesSchema = struct('archived-certificates', {
  licensee: field(1, licenseeId),
  certificates: field(2, list(bytes(1, 8_192), MAX_CERTIFICATES, 1)),
});
