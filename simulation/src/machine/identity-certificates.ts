/**
 * Stands in for the X.509 certificates of devices' signature keys: no request for one reaches a server of a world, and nothing rests on them.
 */
import type { CertificateRequest } from '@countermark/cryptographic-device/identity-certificates';
import { rejection } from '@countermark/protocol/rejection';
import { type Result, refuse } from '@countermark/protocol/result';

export async function openCertificateRequest(): Promise<Result<CertificateRequest>> {
  return refuse(rejection('malformed', { path: 'request', reason: 'there is no X.509 in the simulation' }));
}

export async function deviceIdentityCertificate(): Promise<Uint8Array> {
  throw new TypeError('there is no X.509 in the simulation');
}
