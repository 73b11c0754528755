/**
 * The certificate of a role's next key: the issuing key says from which epoch on the key is the role's.
 *
 * It travels in the unprotected header of whatever that key signs (`cose.ts`), so that whoever trusts the issuing key follows without a
 * new trust bundle. The issuing role's own next key is certified by the one before. The first keys need none: they stand in every bundle.
 * Those of key agreement and of the sessions' authority sign nothing that could carry one: for them a certificate says that the key exists,
 * and a device's certificate which of them is its.
 */
import { publicKey } from '../fields.ts';
import { type MessageType, ROLE_EPOCHS_MAX, ROTATED_KEYS } from '../message.ts';
import { field, type Of, oneOf, struct, timeMs, uint } from '../schema.ts';

export const roleCertificateSchema = struct('role-certificate', {
  role: field(1, oneOf(...ROTATED_KEYS)),
  epoch: field(2, uint(ROLE_EPOCHS_MAX, 2)),
  publicKey: field(3, publicKey),
  issuedAtMs: field(4, timeMs),
});
export type RoleCertificate = Of<typeof roleCertificateSchema>;

export const ROLE_CERTIFICATE: MessageType<RoleCertificate> = {
  type: 'role-certificate',
  version: 1,
  schema: roleCertificateSchema,
  authenticatedBy: 'issuing',
  purpose: 'This key is that of the role from this epoch on.',
};
