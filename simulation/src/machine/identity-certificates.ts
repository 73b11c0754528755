/**
 * Stands in for the X.509 certificates of devices' signature keys: nobody in a world asks for one, and nothing rests on them.
 */
import type { DeviceId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { type Result, refuse } from '@countermark/protocol/result';

export async function openCertificateRequest(): Promise<
  Result<{ readonly device: DeviceId; readonly publicKey: Uint8Array }>
> {
  return refuse(rejection('malformed', { path: 'request', reason: 'there is no X.509 in the simulation' }));
}

export async function deviceIdentityCertificate(): Promise<Uint8Array> {
  throw new TypeError('there is no X.509 in the simulation');
}
