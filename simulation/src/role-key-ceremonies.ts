/**
 * Officers who rotate the keys of the cryptographic device's roles, while records are in flight and held; and a thief of one of those keys.
 *
 * Guarantees: a ceremony that was begun is gone on with until the key is rotated, whatever server and cryptographic device forget or miss
 * meanwhile; sometimes somebody at the device's socket rotates a key behind the server's back. The thief has the private key of a role that
 * confirms nothing, and every certificate, and tries to have PSDs delete records by it. What must hold in the end is `contradictions`.
 */
import { Fault } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import { importPrivateKey, signP1363 } from '@countermark/node-platform/signing';
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import type { CeremonyId, DeviceId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { PSD } from '@countermark/protocol/interfaces/psd';
import {
  CERTIFIED_ROLES,
  type MessageType,
  ROTATED_KEYS,
  type RotatedKey,
  unsealedMessage,
} from '@countermark/protocol/message';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import type { KeyCeremony } from '@countermark/server/key-ceremonies';
import { parseTrustBundle, trustedKeys, withRoleCertificates } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { DirectHost } from './direct-host.ts';
import { lazyRpc } from './machine/rpc.ts';
import { CallBroken } from './network.ts';
import type { Observation } from './observation.ts';
import type { Operators } from './operators.ts';
import { CD_SOCKET, psdSocket, SECOND_OPERATOR, STORE, TRUST_BUNDLE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import type { World } from './world.ts';

const MINUTE_MS = 60_000;
/** The cryptographic device rotates a role's key once an hour; its clock may jump meanwhile. */
const WAIT_MS = 25 * MINUTE_MS;
const FOLDER = '/cryptographic-device/keys';

type CertificateRow = { readonly role: string; readonly epoch: bigint; readonly certificate: Buffer };

export class RoleKeyCeremonies {
  readonly #world: World;
  readonly #seen: Observation;
  readonly #operators: Operators;
  readonly #begun = new Set<RotatedKey>();

  constructor(world: World, of: { readonly seen: Observation; readonly operators: Operators }) {
    this.#world = world;
    this.#seen = of.seen;
    this.#operators = of.operators;
  }

  /** Whether every ceremony that was begun has led to a key. */
  get atRest(): boolean {
    return this.#begun.size === 0;
  }

  /** Rotates a role's key, and has a thief of another one try what he can. */
  async rotate(random: RandomStream): Promise<void> {
    const role = random.pick(ROTATED_KEYS);
    if (this.#begun.has(role)) return;
    this.#begun.add(role);
    if (random.chance(0.15)) await this.#behindTheServer(role, random);
    else await this.#inCeremony(role);
    this.#begun.delete(role);
    this.#world.count(`role keys rotated: ${role}`);
    await this.#forge(random);
  }

  async #inCeremony(role: RotatedKey): Promise<void> {
    for (;;) {
      const ordered = await this.#operators.ask<KeyCeremony>('order-key-ceremony', { role, reason: 'it is time' });
      if (ordered?.ok === true) {
        const { ceremony, epoch } = ordered.value;
        const alone = epoch === null ? await this.#operators.ask('confirm-key-ceremony', { ceremony }) : null;
        if (alone?.ok === true) this.#world.violated('role keys', `the ${role} key was rotated by one person`);
        const both = await this.#operators.ask<KeyCeremony>('confirm-key-ceremony', { ceremony }, SECOND_OPERATOR);
        if (both?.ok === true) return;
        this.#world.count(`role keys not yet rotated: ${both?.rejection.code ?? 'no answer'}`);
      }
      await this.#rest(WAIT_MS);
    }
  }

  /** Somebody who can reach the device: it makes a newer key for him, and nothing else. */
  async #behindTheServer(role: RotatedKey, random: RandomStream): Promise<void> {
    const { rotateRoleKey } = CRYPTOGRAPHIC_DEVICE;
    const ceremony = `cer_${random.bytes(16).toString('hex')}` as CeremonyId;
    for (;;) {
      try {
        const parameters = rotateRoleKey.request.toCbor({ role, ceremony });
        if ((await lazyRpc(CD_SOCKET).call(rotateRoleKey.name, parameters)).ok) return;
      } catch (error) {
        // It is down: it is asked again.
        if (!(error instanceof Fault || error instanceof CallBroken)) throw error;
      }
      await this.#rest(WAIT_MS);
    }
  }

  /** A confirmation for each record that nobody has confirmed, by the newest key of another role, with that key's own certificates. */
  async #forge(random: RandomStream): Promise<void> {
    const rows = this.#certificates();
    const stolen = rows.findLast(({ role }) => role !== 'confirming' && role !== 'issuing' && role !== 'agreement');
    if (stolen === undefined) return;
    const epoch = Number(stolen.epoch);
    const file = `${FOLDER}/${stolen.role}-${epoch}.key`;
    if (!this.#world.files.has(file)) return;
    const key = importPrivateKey(this.#world.files.read(file));
    const certificates = [...rows.slice(0, rows.indexOf(stolen)).filter(({ role }) => role === 'issuing'), stolen].map(
      ({ certificate }) => new Uint8Array(certificate),
    );
    for (const { line, device, sequence, digest } of this.#seen.sealed.values()) {
      if (this.#seen.confirmed.has(digest) || !this.#world.isDefined(`psd-${line}`)) continue;
      const statement = unsealedMessage(
        CONFIRMATION,
        'signature',
        { holder: 'confirming', epoch },
        {
          device: device as DeviceId,
          licensee: this.#licenseeOf(device),
          sequence,
          digest: new Uint8Array(Buffer.from(digest, 'hex')) as Digest,
          confirmedAtMs: Math.floor(this.#world.scheduler.nowMs),
        },
      );
      const confirmation = seal(statement, signP1363(key, toBeAuthenticated(statement)), certificates);
      const host = new DirectHost(this.#world, { socket: psdSocket(line), credential: '', random });
      const taken = await host.psd(PSD.confirm, { confirmation });
      this.#world.count('confirmations forged with the key of another role');
      if (taken?.ok === true) {
        this.#world.violated(
          'role keys',
          `a confirmation by the ${stolen.role} key was believed: ${device} ${sequence}`,
        );
      }
    }
  }

  /**
   * In words: what was signed by any key of a role must verify under the first trust bundle and under one of all epochs; of each role one
   * private key is left, the one in use; of key agreement all of them.
   */
  contradictions(): string[] {
    const wrong: string[] = [];
    const rows = this.#certificates();
    const first = parseTrustBundle(this.#world.files.read(TRUST_BUNDLE).toString('utf8'));
    if (!first.ok) return [`the trust bundle: ${first.rejection.code}`];
    const all = withRoleCertificates(
      first.value,
      rows.map(({ certificate }) => certificate),
      nodeVerification,
    );
    const ofRoles = rows.filter(({ role }) => CERTIFIED_ROLES.some((known) => known === role));
    if (all.keys.length !== first.value.keys.length + ofRoles.length)
      wrong.push('a certificate of a role does not verify');
    for (const bundle of [first.value, all]) {
      const trust = { port: nodeVerification, keys: trustedKeys(bundle) };
      const check = (of: MessageType<unknown>, bytes: Buffer, name: string): void => {
        const verified = verifyMessage(of, bytes, trust);
        if (!verified.ok) wrong.push(`${of.type} of ${name} does not verify: ${verified.rejection.code}`);
      };
      for (const row of this.#world.disks.rows<{ device: string; sequence: bigint; attestation: Buffer }>(
        STORE.server,
        'SELECT device, sequence, attestation FROM record',
      )) {
        check(ATTESTATION, row.attestation, `${row.device} ${row.sequence}`);
      }
      for (const row of this.#world.disks.rows<{ device: string; sequence: bigint; confirmation: Buffer }>(
        STORE.server,
        'SELECT device, sequence, confirmation FROM confirmation',
      )) {
        check(CONFIRMATION, row.confirmation, `${row.device} ${row.sequence}`);
      }
    }
    for (const role of ROTATED_KEYS) {
      const inUse = rows.findLast((row) => row.role === role)?.epoch ?? 1n;
      const file = inUse === 1n ? `${role}.key` : `${role}-${inUse}.key`;
      const left = this.#world.files.list(FOLDER).filter((name) => new RegExp(`^${role}(-\\d+)?\\.key$`).test(name));
      // Codes are checked with every key that was ever agreed with.
      const right = role === 'agreement' ? left.length === Number(inUse) : left.length === 1;
      if (!right || !left.includes(file)) wrong.push(`private keys of ${role}: ${left.join(', ')}, not ${file}`);
    }
    return wrong;
  }

  #certificates(): readonly CertificateRow[] {
    return this.#world.disks.rows<CertificateRow>(
      STORE.cryptographicDevice,
      'SELECT role, epoch, certificate FROM role_certificate ORDER BY number',
    );
  }

  #licenseeOf(device: string) {
    const [row] = this.#world.disks.rows<{ readonly licensee: string }>(
      STORE.cryptographicDevice,
      'SELECT licensee FROM device WHERE device = ?',
      device,
    );
    return (row?.licensee ?? 'lic_nobody') as Parameters<typeof CONFIRMATION.schema.toCbor>[0]['licensee'];
  }

  #rest(ms: number): Promise<void> {
    const { scheduler, people } = this.#world;
    return new Promise((resolve) => {
      scheduler.after(ms, people, 'officers waited', resolve);
    });
  }
}
