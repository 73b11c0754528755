/** Who has the key of one role of the cryptographic device, with its certificates, has that role and no other; and nobody certifies keys but the issuing key. */
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { seal, toBeAuthenticated, unsealed } from '@countermark/protocol/cose';
import {
  CERTIFIED_ROLES,
  type CertifiedRole,
  type MessageType,
  ROLES,
  unsealedMessage,
} from '@countermark/protocol/message';
import { MESSAGES } from '@countermark/protocol/messages/catalogue';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { type TrustBundle, trustedKeys, withRoleCertificates } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { describe, expect, it } from 'vitest';

type Pair = ReturnType<typeof generateSigningKey>;

const first = new Map(ROLES.map((role) => [role, generateSigningKey()]));
const later = new Map(CERTIFIED_ROLES.map((role) => [role, generateSigningKey()]));
const bundle: TrustBundle = {
  keys: [...first].map(([role, { publicKey }]) => ({ role, epoch: 1, publicKey: publicKeyBytes(publicKey) })),
  agreementKey: new Uint8Array(65),
  sessionAuthority: Uint8Array.of(0),
};
const trust = { port: nodeVerification, keys: trustedKeys(bundle) };

/** `holder`, `by`: who is said to have signed it, and whose key did. */
function certificate(
  role: CertifiedRole,
  { publicKey }: Pair,
  by: Pair = pair('issuing'),
  holder = 'issuing',
  epoch = 2,
): Uint8Array {
  const value = { role, epoch, publicKey: publicKeyBytes(publicKey), issuedAtMs: 0 };
  const message = unsealedMessage(ROLE_CERTIFICATE, 'signature', { holder, epoch: 1 }, value);
  return seal(message, signP1363(by.privateKey, toBeAuthenticated(message)));
}

function pair(role: (typeof ROLES)[number], of: ReadonlyMap<string, Pair> = first): Pair {
  const found = of.get(role);
  if (found === undefined) throw new Error(role);
  return found;
}

/** The code of a message of epoch 2 of its role, with nothing in it: `malformed` where its signature was believed. */
function outcome(of: MessageType<unknown>, { privateKey }: Pair, certificates: readonly Uint8Array[]): string {
  const message = unsealed(
    'signature',
    of.type,
    of.version,
    { holder: of.authenticatedBy, epoch: 2 },
    Uint8Array.of(0xa0),
  );
  const sealed = seal(message, signP1363(privateKey, toBeAuthenticated(message)), certificates);
  const verified = verifyMessage(of, sealed, trust);
  return verified.ok ? 'accepted' : verified.rejection.code;
}

const byRoles = MESSAGES.filter(({ authenticatedBy }) => authenticatedBy !== 'device');

describe('The certificate of a role’s key', () => {
  it.each(CERTIFIED_ROLES)('%s: is good for the messages of that role and for no other’s', (role) => {
    const own = certificate(role, pair(role, later));
    for (const of of byRoles) {
      const expected = of.authenticatedBy === role ? 'malformed' : 'unknown-key';
      expect([of.type, outcome(of, pair(role, later), [own])]).toEqual([of.type, expected]);
    }
    expect(withRoleCertificates(bundle, [own], nodeVerification).keys.filter(({ epoch }) => epoch === 2)).toEqual([
      { role, epoch: 2, publicKey: publicKeyBytes(pair(role, later).publicKey) },
    ]);
  });

  it('is by the issuing key alone: no other role certifies a key, nor does a key itself', () => {
    const thief = pair('policy', later);
    for (const of of byRoles) {
      const { authenticatedBy: role } = of;
      if (role === 'device' || role === 'granting') continue;
      for (const by of [thief, ...ROLES.filter((one) => one !== 'issuing').map((one) => pair(one))]) {
        expect(outcome(of, thief, [certificate(role, thief, by)])).toBe('unknown-key');
        expect(outcome(of, thief, [certificate(role, thief, by, 'policy')])).toBe('unknown-key');
      }
      // Nor the issuing key in another's name.
      expect(outcome(of, thief, [certificate(role, thief, pair('issuing'), 'policy')])).toBe('unknown-key');
      // Nor through an issuing key that certified itself.
      const own = certificate('issuing', thief, thief);
      expect(outcome(of, thief, [own, certificate(role, thief, thief)])).toBe('unknown-key');
    }
  });

  it('is for no granting key: that is the postal authority’s', () => {
    const forged = certificate('granting' as CertifiedRole, pair('policy', later));
    for (const of of byRoles.filter(({ authenticatedBy }) => authenticatedBy === 'granting')) {
      expect(outcome(of, pair('policy', later), [forged])).toBe('unknown-key');
    }
    expect(withRoleCertificates(bundle, [forged], nodeVerification)).toEqual(bundle);
  });
});
