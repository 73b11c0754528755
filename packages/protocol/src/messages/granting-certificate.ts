/**
 * The certificate of the postal authority's next granting key: the one in use says from which epoch on the next one is its.
 *
 * As a role-certificate it travels in the unprotected header of whatever that key signs, so that whoever trusts the authority's first key follows
 * without a new trust bundle. It is no role-certificate: the issuing key, which is the cryptographic device's, has no say in who grants.
 */
import { publicKey } from '../fields.ts';
import { type MessageType, ROLE_EPOCHS_MAX } from '../message.ts';
import { field, type Of, struct, timeMs, uint } from '../schema.ts';

export const grantingCertificateSchema = struct('granting-certificate', {
  epoch: field(1, uint(ROLE_EPOCHS_MAX, 2)),
  publicKey: field(2, publicKey),
  issuedAtMs: field(3, timeMs),
});
export type GrantingCertificate = Of<typeof grantingCertificateSchema>;

export const GRANTING_CERTIFICATE: MessageType<GrantingCertificate> = {
  type: 'granting-certificate',
  version: 1,
  schema: grantingCertificateSchema,
  authenticatedBy: 'granting',
  purpose: 'This key is the authority’s for grants from this epoch on.',
};
