/**
 * What the X.509 certificate of a device's signature key says of the device: URIs of its alternative name (RFC 5280, 4.2.1.6), and the
 * proof of an enrolment code that the request for it bears.
 *
 * Guarantees that who issues and who reads it have the same words. URIs, and no extension under an OID of our own: every program shows them.
 */
import { type Digest, digestOf, type Sha256 } from './digest.ts';
import { utf8 } from './bytes.ts';

const PREFIX = 'urn:countermark:';

export type IdentityWords = {
  readonly device: string;
  readonly licensee: string;
  readonly epoch: number;
  readonly authentication: string;
  readonly certified: boolean;
  /** Of the device's policy; undefined: it allows all. */
  readonly products: readonly string[] | undefined;
};

/** The URIs, in their order. */
export function identityNames({ products, ...words }: IdentityWords): readonly string[] {
  const { device, licensee, epoch, authentication, certified } = words;
  const said = Object.entries({ device, licensee, epoch, authentication, certified });
  return [
    ...said.map(([name, value]) => `${PREFIX}${name}:${String(value)}`),
    ...(products === undefined ? [`${PREFIX}products:all`] : products.map((code) => `${PREFIX}product:${code}`)),
  ];
}

/**
 * What stands in a certificate request for the one-time code: SHA-256 over a name and the code, so that a request that is kept gives no
 * code away, and is no code of the server's either, which keeps SHA-256 of the code's bytes.
 */
export function enrolmentCodeDigest(code: string, sha256: Sha256): Digest {
  return digestOf(sha256(utf8(`countermark enrolment code ${code}`)));
}
