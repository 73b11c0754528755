/**
 * Grants (claims 7, 8, 19, 20): cumulative entitlement minus what was granted before, with its reckoning and evidence,
 * signed, and verified before anyone sees it.
 *
 * Guarantees: a draft's amount is exactly the difference of two cumulative entitlements, so that the sum of all revisions
 * is the entitlement, whatever the steps in which the records came; each names the digests that count for the first time,
 * and the revision before. An entitlement that fell (it cannot, by monotone programmes and an append-only log) drafts
 * nothing. Where the evidence is more than one message holds, revisions of 0 carry it.
 * That no revision is issued twice is the store's promise (`AuthorityStore.evaluated`).
 */
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import { unsealedMessage } from '@countermark/protocol/message';
import { CREDIT_GRANT, DISCOUNT_GRANT, type Grant, MAX_EVIDENCE } from '@countermark/protocol/messages/grant';
import { formatMills, mills } from '@countermark/protocol/money';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { Programme } from '@countermark/tariff/programme';
import type { Reckoning } from '@countermark/tariff/programme-reckoning';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { LastGrant, SignedGrant } from './store/authority-store.ts';

/** The authority's grant key, behind a port: software here, an HSM where there is one. */
export type GrantSigner = {
  /** The holder `granting`. */
  readonly epoch: number;
  /** Uncompressed point, 65 bytes. */
  readonly publicKey: Uint8Array;
  /** Lead to it from the first granting key, oldest first; none for the first. */
  readonly certificates: readonly Uint8Array[];
  /** The public parts of it and of all before it. */
  readonly keys: KeySource;
  /** ES256: 64 bytes r || s. */
  readonly sign: (bytes: Uint8Array) => Promise<Uint8Array>;
};

export type Draft = {
  readonly programme: Programme;
  readonly reckoning: Reckoning;
  readonly last: LastGrant | null;
  /** Digests that count for the first time, in intake order. */
  readonly evidence: readonly Digest[];
  /** Sentences on what was left out. */
  readonly remarks: readonly string[];
};

/** Whether a reckoning calls for a grant after the last one. */
export function isDue(reckoning: Reckoning, last: LastGrant | null): boolean {
  return reckoning.entitlementMills > (last?.entitlementMills ?? 0n);
}

/** Signs a draft: one grant, or several where the evidence asks for it, in the order of their revisions. */
export async function signGrants(draft: Draft, signer: GrantSigner, grantedAtMs: number): Promise<SignedGrant[]> {
  const { programme, reckoning, evidence } = draft;
  if (evidence.length === 0) throw new Error(`A grant of ${programme.id} would rest on no record.`);
  const grantedBefore = draft.last?.entitlementMills ?? mills(0n);
  const signed: SignedGrant[] = [];
  let previous = draft.last?.digest;
  let revision = draft.last?.revision ?? 0;
  for (let start = 0; start < evidence.length; start += MAX_EVIDENCE) {
    const isLast = start + MAX_EVIDENCE >= evidence.length;
    const entitlementMills = isLast ? reckoning.entitlementMills : grantedBefore;
    revision += 1;
    const grant: Grant = {
      programme: programme.id,
      programmeVersion: programme.version,
      licensee: reckoning.licensee,
      ...(reckoning.customer === null ? {} : { customer: reckoning.customer }),
      period: reckoning.period,
      revision,
      amountMills: mills(entitlementMills - grantedBefore),
      entitlementMills,
      grantedBeforeMills: grantedBefore,
      reasons: isLast ? reasonsOf(draft, grantedBefore) : ['Only names records: the next revision reckons with them.'],
      evidence: evidence.slice(start, start + MAX_EVIDENCE),
      ...(previous === undefined ? {} : { previous }),
      currency: programme.currency,
      demonstration: programme.demonstration,
      grantedAtMs,
    };
    const message = await signGrant(programme, grant, signer);
    previous = message.digest;
    signed.push({
      programme: programme.id,
      version: programme.version,
      licensee: reckoning.licensee,
      customer: reckoning.customer,
      period: reckoning.period,
      revision,
      amountMills: grant.amountMills,
      entitlementMills,
      ...message,
    });
  }
  return signed;
}

function reasonsOf({ programme, reckoning, remarks }: Draft, grantedBefore: bigint): readonly string[] {
  const amount = (value: bigint): string => formatMills(value, programme.currency);
  const settled =
    grantedBefore === 0n
      ? `Nothing was granted before: this grant is ${amount(reckoning.entitlementMills)}.`
      : `${amount(grantedBefore)} was granted before: this grant is ${amount(reckoning.entitlementMills - grantedBefore)}.`;
  return [
    ...(programme.demonstration ? ['Demonstration: no real money.'] : []),
    ...reckoning.reasons,
    ...remarks,
    settled,
  ];
}

async function signGrant(
  programme: Programme,
  grant: Grant,
  signer: GrantSigner,
): Promise<{ readonly digest: Digest; readonly bytes: Uint8Array }> {
  const type = programme.kind === 'discount' ? DISCOUNT_GRANT : CREDIT_GRANT;
  const key = { holder: 'granting', epoch: signer.epoch };
  const unsealed = unsealedMessage(type, 'signature', key, grant);
  const bytes = seal(unsealed, await signer.sign(toBeAuthenticated(unsealed)), signer.certificates);
  // The authority's own output is verified as anybody will: a broken signer must not release anything.
  const verified = verifyMessage(type, bytes, {
    port: nodeVerification,
    keys: signer.keys,
  });
  if (!verified.ok) throw new Error(`The grant key made a grant that does not verify: ${verified.rejection.code}.`);
  return { digest: verified.value.digest, bytes };
}
