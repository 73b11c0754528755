/**
 * Claims 1e, 2, 3 and 6: authenticating records, attesting that they are authentic, confirming those that are logged.
 *
 * Guarantees: an attestation is made only of a record whose signature or code was checked here under the key that was
 * enrolled here; a confirmation only of a record that this device has attested, given both again: either the bytes are
 * those that this process attested (`attested-memory.ts`), or both are verified anew. Items are independent: one that is
 * refused changes nothing for the others.
 * Does not know whether the server stored anything: it takes its asking for a confirmation as the word that it did, and
 * says so in the confirmation's meaning. Does not see the chain.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { ATTESTATION, type Attestation } from '@countermark/protocol/messages/attestation';
import { CONFIRMATION, type Confirmation } from '@countermark/protocol/messages/confirmation';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { attestationMismatch } from '@countermark/verify/attested-record';
import { ENDED_EPOCH } from '@countermark/verify/chain';
import { openRecord, recordIdentity, type VerifiedRecord } from '@countermark/verify/record';
import { type AuthenticatorCheck, type KeySource, openMessage, type Verified } from '@countermark/verify/verified';
import { AttestedMemory } from './attested-memory.ts';
import type { DeviceRegister } from './device-register.ts';
import type { KeyStore, MacCheck, SignatureCheck } from './key-store.ts';
import type { RoleKeys } from './role-keys.ts';
import { signMessages } from './role-messages.ts';

/** A record to confirm, and the attestation that it was given. */
export type ConfirmItem = { readonly record: Uint8Array; readonly attestation: Uint8Array };

type Opened<T> = { readonly check: AuthenticatorCheck; readonly finish: (authentic: boolean) => Result<T> };

export class Authentication {
  readonly #keys: KeyStore;
  readonly #roleKeys: RoleKeys;
  readonly #register: DeviceRegister;
  readonly #clock: Clock;
  readonly #memory: AttestedMemory;
  readonly #deviceKeys: KeySource;

  constructor(
    keys: KeyStore,
    roleKeys: RoleKeys,
    register: DeviceRegister,
    clock: Clock,
    memory = new AttestedMemory(),
  ) {
    this.#keys = keys;
    this.#roleKeys = roleKeys;
    this.#register = register;
    this.#clock = clock;
    this.#memory = memory;
    this.#deviceKeys = ({ holder, epoch }) => register.certificate(holder, epoch)?.message ?? null;
  }

  /**
   * Authenticates and attests each record. `only` restricts to one device: the one at the other end of a session.
   * Rejections, each for its record: those of `verifyRecord`, `wrong-device`, `inconsistent`.
   */
  async authenticate(records: readonly Uint8Array[], only?: DeviceId): Promise<readonly Result<Uint8Array>[]> {
    const verified = (await this.#verified(records)).map((result): Result<VerifiedRecord> => {
      if (!result.ok) return result;
      const { device, licensee, sequence } = recordIdentity(result.value);
      if (only !== undefined && device !== only) {
        return refuse(rejection('wrong-device', { type: result.value.type, device, expected: only }));
      }
      const { epoch } = result.value.verified.envelope.key;
      return this.#register.certificate(device, epoch)?.message.licensee === licensee
        ? result
        : refuse(
            rejection('inconsistent', { device, sequence, reason: 'its licensee is not that of the certificate' }),
          );
    });
    const attestedAtMs = this.#clock.nowMs();
    const said: Attestation[] = [];
    for (const result of verified) {
      if (!result.ok) continue;
      this.#noteRotation(result.value);
      const { envelope } = result.value.verified;
      const { device, licensee, sequence, digest } = recordIdentity(result.value);
      said.push({
        device,
        licensee,
        sequence,
        digest,
        recordType: result.value.type,
        authentication: envelope.authentication,
        epoch: envelope.key.epoch,
        attestedAtMs,
      });
    }
    const attestations = await signMessages(this.#roleKeys, ATTESTATION, said);
    let next = 0;
    return verified.map((result, index) => {
      if (!result.ok) return result;
      const attestation = attestations[next];
      const statement = said[next];
      const record = records[index];
      next += 1;
      if (attestation === undefined || statement === undefined || record === undefined) throw new TypeError('order');
      this.#memory.remember(record, attestation, statement);
      return accept(attestation);
    });
  }

  /** Confirms each record. Rejections, each for its item: those of `verifyMessage`, `verifyRecord`, `attestation-mismatch`. */
  async confirm(items: readonly ConfirmItem[]): Promise<readonly Result<Uint8Array>[]> {
    const recalled = items.map(({ record, attestation }) => this.#memory.recall(record, attestation));
    const forgotten = items.filter((_, index) => recalled[index] === null);
    const anew = await this.#verifiedAnew(forgotten);
    let nextAnew = 0;
    const said = recalled.map((known): Result<Attestation> => {
      if (known !== null) return accept(known);
      const result = anew[nextAnew];
      nextAnew += 1;
      if (result === undefined) throw new TypeError('order');
      return result;
    });
    const confirmedAtMs = this.#clock.nowMs();
    const values: Confirmation[] = [];
    for (const result of said) {
      if (!result.ok) continue;
      const { device, licensee, sequence, digest } = result.value;
      values.push({ device, licensee, sequence, digest, confirmedAtMs });
    }
    const confirmations = await signMessages(this.#roleKeys, CONFIRMATION, values);
    let next = 0;
    return said.map((result) => {
      if (!result.ok) return result;
      const confirmation = confirmations[next];
      next += 1;
      if (confirmation === undefined) throw new TypeError('order');
      return accept(confirmation);
    });
  }

  /** A rotation to the certificate that it names ends what the key before it may ask for; a final statement, what any key may. */
  #noteRotation(record: VerifiedRecord): void {
    // No key of the device asks for anything after its final statement.
    if (record.type === 'final-statement') {
      const { device } = record.verified.message;
      if (this.#register.epochInUse(device) < ENDED_EPOCH) this.#register.goOver(device, ENDED_EPOCH);
    }
    if (record.type !== 'key-rotation') return;
    const { device, newEpoch, newCertificate } = record.verified.message;
    if (newEpoch <= this.#register.epochInUse(device)) return;
    const certificate = this.#register.certificate(device, newEpoch);
    if (certificate !== null && sameBytes(certificate.digest, newCertificate)) this.#register.goOver(device, newEpoch);
  }

  async #verifiedAnew(items: readonly ConfirmItem[]): Promise<readonly Result<Attestation>[]> {
    if (items.length === 0) return [];
    const attestations = await this.#checked(
      items.map(({ attestation }) =>
        openMessage(
          ATTESTATION,
          attestation,
          parseEnvelope(attestation),
          { port: nodeVerification, keys: this.#roleKeys.source },
          'signature',
        ),
      ),
    );
    const records = await this.#verified(items.map(({ record }) => record));
    return items.map((_, index): Result<Attestation> => {
      const attestation: Result<Verified<Attestation>> | undefined = attestations[index];
      const record = records[index];
      if (attestation === undefined || record === undefined) throw new TypeError('order');
      if (!attestation.ok) return attestation;
      if (!record.ok) return record;
      const mismatch = attestationMismatch(attestation.value, record.value);
      return mismatch === null ? accept(attestation.value.message) : refuse(mismatch);
    });
  }

  async #verified(records: readonly Uint8Array[]): Promise<readonly Result<VerifiedRecord>[]> {
    const trust = { port: nodeVerification, keys: this.#deviceKeys };
    return this.#checked(records.map((record) => openRecord(record, trust)));
  }

  /** Checks all authenticators, by signature and by code, then finishes each. */
  async #checked<T>(opened: readonly Result<Opened<T>>[]): Promise<readonly Result<T>[]> {
    const signatures: SignatureCheck[] = [];
    const macs: MacCheck[] = [];
    for (const item of opened) {
      if (!item.ok) continue;
      const { check } = item.value;
      if (check.authentication === 'mac') macs.push(this.#macCheck(check));
      else {
        const { publicKey } = check.known;
        signatures.push({ publicKey, input: check.input(), signature: check.authenticator });
      }
    }
    const [bySignature, byMac] = await Promise.all([
      signatures.length === 0 ? [] : this.#keys.verifySignatures(signatures),
      macs.length === 0 ? [] : this.#keys.verifyMacs(macs),
    ]);
    let nextSignature = 0;
    let nextMac = 0;
    return opened.map((item) => {
      if (!item.ok) return item;
      const { check, finish } = item.value;
      const authentic = check.authentication === 'mac' ? byMac[nextMac++] : bySignature[nextSignature++];
      return finish(authentic === true);
    });
  }

  #macCheck(check: AuthenticatorCheck): MacCheck {
    const certificate = this.#register.certificate(check.key.holder, check.key.epoch);
    if (certificate === null) throw new TypeError('a known key without its certificate');
    const { device, epoch, agreementKey, agreementPeer } = certificate.message;
    const agreed = { device, epoch, purpose: 'statistics', agreementKey, agreementPeer } as const;
    return { ...agreed, input: check.input(), code: check.authenticator };
  }
}
