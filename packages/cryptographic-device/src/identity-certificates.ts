/**
 * X.509 certificates of devices' signature keys, and the PKCS#10 requests (RFC 2986) that ask for them.
 *
 * A certificate says: subject CN the device, O the licensee; as URIs of its alternative name device, licensee, key epoch, procedure, whether
 * the device is certified, and the products that its policy allows (protocol, `identity-name.ts`). It is for signatures on documents (RFC
 * 9336) and never a key of a session.
 * Guarantees: the key was certified before as the device's (`issuing.ts`), and signed the request. Not revoked: a withdrawn device gets no
 * further one, and what an older one says of products or epoch stays in it.
 */
import { webcrypto } from 'node:crypto';
import { errorText } from '@countermark/node-platform/fault';
import { publicKeyInfo } from '@countermark/node-platform/signing';
import { type DeviceId, DEVICE_ID } from '@countermark/protocol/id';
import { identityNames } from '@countermark/protocol/identity-name';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { create, type Issuer, library, SKEW_MS } from './x509-authority.ts';

const DOCUMENT_SIGNING = '1.3.6.1.5.5.7.3.36';
const VALIDITY_MS = 10 * 365 * 24 * 3_600_000;
const SPKI_PREFIX_BYTES = publicKeyInfo(new Uint8Array()).length;
const POINT_BYTES = 65;

/** What a request says that its key (65 bytes) signed; `challenge`: its challengePassword (RFC 2985), or null. */
export type CertificateRequest = {
  readonly device: DeviceId;
  readonly publicKey: Uint8Array;
  readonly challenge: string | null;
};

/** Opens a request that its key signed. Rejections: `malformed`, `bad-authenticator`. */
export async function openCertificateRequest(bytes: Uint8Array): Promise<Result<CertificateRequest>> {
  const { ChallengePasswordAttribute, Pkcs10CertificateRequest } = await library();
  const malformed = (reason: string) => refuse(rejection('malformed', { path: 'request', reason }));
  try {
    const request = new Pkcs10CertificateRequest(Uint8Array.from(bytes));
    const [device = ''] = request.subjectName.getField('CN');
    if (!DEVICE_ID.test(device)) return malformed('its subject names no device');
    const info = new Uint8Array(request.publicKey.rawData);
    const publicKey = info.slice(SPKI_PREFIX_BYTES);
    if (publicKey.length !== POINT_BYTES || !publicKeyInfo(publicKey).equals(info)) {
      return malformed('its key is not on P-256');
    }
    if (!(await request.verify(webcrypto))) {
      return refuse(rejection('bad-authenticator', { type: 'certificate-request', holder: device }));
    }
    const challenges = request.attributes.filter((attribute) => attribute instanceof ChallengePasswordAttribute);
    if (challenges.length > 1) return malformed('it has several challenge passwords');
    return accept({ device: device as DeviceId, publicKey, challenge: challenges[0]?.password ?? null });
  } catch (error) {
    return malformed(`it is no PKCS#10 request: ${errorText(error).slice(0, 100)}`);
  }
}

/** The certificate (DER). `products`: those that the device's policy allows; undefined: all. */
export async function deviceIdentityCertificate(
  issuer: Issuer,
  { device, licensee, epoch, authentication, certified, publicKey }: DeviceCertificate,
  products: readonly string[] | undefined,
  nowMs: number,
): Promise<Uint8Array> {
  const { ExtendedKeyUsageExtension, KeyUsageFlags, KeyUsagesExtension, SubjectAlternativeNameExtension } =
    await library();
  const names = identityNames({ device, licensee, epoch, authentication, certified, products });
  const certificate = await create(issuer, {
    subject: `CN=${device}, O=${licensee}`,
    point: publicKey,
    fromMs: nowMs - SKEW_MS,
    toMs: nowMs + VALIDITY_MS,
    extensions: [
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([DOCUMENT_SIGNING]),
      new SubjectAlternativeNameExtension(names.map((value) => ({ type: 'url' as const, value }))),
    ],
  });
  return new Uint8Array(certificate.rawData);
}
