/**
 * A thief of a device's keys: whoever copied the store can sign whatever he likes with what was in it, without any PSD.
 *
 * Makes what such a thief can make best: the next record of the chain as it stands in the log, consistent in every register, and a
 * request for funds; with keys that a rotation has retired since, nothing of it may be accepted.
 */
import { sha256 } from '@countermark/node-platform/verification';
import { hmacSha256 } from '@countermark/node-platform/signing';
import { messageDigest, parseEnvelope, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { parsePayload, unsealedMessage } from '@countermark/protocol/message';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { mills } from '@countermark/protocol/money';
import { signedWith } from '@countermark/psd/shell/authenticator';
import { type DeviceKeys, keysOf, macKey } from '@countermark/psd/shell/keys';
import { STORE } from './parties.ts';
import type { World } from './world.ts';

type Identity = { readonly device: string; readonly epoch: bigint; readonly authentication: 'mac' | 'signature' };

export class StolenKeys {
  readonly #world: World;
  readonly #keys: DeviceKeys;
  readonly #identity: Identity;

  /** Takes what is in the line's store now; null where it has no device. */
  static of(world: World, line: number): StolenKeys | null {
    const secrets = world.disks.rows<{ readonly name: string; readonly bytes: Buffer }>(
      STORE.psd(line),
      'SELECT name, bytes FROM secret',
    );
    const [identity] = world.disks.rows<Identity>(
      STORE.psd(line),
      'SELECT device, epoch, authentication FROM identity',
    );
    if (identity === undefined || secrets.length === 0) return null;
    const keys = keysOf(new Map(secrets.map(({ name, bytes }) => [name, new Uint8Array(bytes)])));
    return new StolenKeys(world, keys, identity);
  }

  private constructor(world: World, keys: DeviceKeys, identity: Identity) {
    this.#world = world;
    this.#keys = keys;
    this.#identity = identity;
  }

  /** Whether the log has gone over to other keys. */
  get areOver(): boolean {
    const [head] = this.#world.disks.rows<{ readonly epoch: bigint }>(
      STORE.server,
      'SELECT epoch FROM head WHERE device = ?',
      this.#identity.device,
    );
    return (head?.epoch ?? 0n) > this.#identity.epoch;
  }

  /** A batch that nobody franked, as the next record of the chain; null where the log has none to follow. */
  record(): { readonly bytes: Uint8Array; readonly digest: string } | null {
    const { disks } = this.#world;
    const { device, authentication } = this.#identity;
    const [head] = disks.rows<{ readonly sequence: bigint; readonly digest: Buffer }>(
      STORE.server,
      'SELECT sequence, digest FROM head WHERE device = ?',
      device,
    );
    const batches = disks
      .rows<{ readonly record: Buffer }>(
        STORE.server,
        'SELECT record FROM record WHERE device = ? ORDER BY sequence DESC',
        device,
      )
      .flatMap(({ record }) => {
        const envelope = parseEnvelope(record);
        const parsed =
          envelope.ok && envelope.value.type !== KEY_ROTATION.type
            ? parsePayload(BATCH_STATISTICS, envelope.value)
            : null;
        return parsed?.ok === true ? [parsed.value] : [];
      });
    const [last] = batches;
    if (head === undefined || last === undefined) return null;
    const { closed } = last.observed;
    const message = unsealedMessage(BATCH_STATISTICS, authentication, this.#keyId, {
      ...last,
      sequence: Number(head.sequence) + 1,
      previous: new Uint8Array(head.digest) as Digest,
      declaration: {
        ...last.declaration,
        batch: `bat_${this.#world.stream('stolen keys').bytes(16).toString('hex')}` as typeof last.declaration.batch,
      },
      closing: { ...last.closing, spoiled: [] },
      observed: {
        ...last.observed,
        epoch: Number(this.#identity.epoch),
        opened: closed,
        closed,
        firstPieceNumber: closed.pieces + 1,
        pieces: 0,
        cells: [],
        spoiledPieces: 0,
        spoiledPostageMills: mills(0n),
        incomplete: false,
      },
    });
    const bytes = authentication === 'mac' ? this.#coded(message) : signedWith(this.#keys.signing, message);
    return { bytes, digest: Buffer.from(messageDigest(message, sha256)).toString('hex') };
  }

  /** A request for funds, with the registers that the log has. */
  fundsRequest(number: number, amountMills: bigint): Uint8Array | null {
    const { device } = this.#identity;
    const [head] = this.#world.disks.rows<{
      readonly ascending_mills: bigint;
      readonly descending_mills: bigint;
      readonly pieces: bigint;
      readonly received_mills: bigint;
      readonly returned_mills: bigint;
      readonly last_grant: bigint;
      readonly licensee: string;
    }>(
      STORE.server,
      'SELECT h.*, d.licensee FROM head h JOIN device d ON d.device = h.device WHERE h.device = ?',
      device,
    );
    if (head === undefined) return null;
    return signedWith(
      this.#keys.signing,
      unsealedMessage(FUNDS_REQUEST, 'signature', this.#keyId, {
        device: device as DeviceId,
        licensee: head.licensee as LicenseeId,
        number,
        amountMills: mills(amountMills),
        registers: {
          ascendingMills: mills(head.ascending_mills),
          descendingMills: mills(head.descending_mills),
          pieces: Number(head.pieces),
        },
        funds: {
          receivedMills: mills(head.received_mills),
          returnedMills: mills(head.returned_mills),
          lastGrant: Number(head.last_grant),
        },
        currency: { code: 'USD', exponent: 3 },
      }),
    );
  }

  get #keyId() {
    return { holder: this.#identity.device, epoch: Number(this.#identity.epoch) };
  }

  #coded(message: Parameters<typeof toBeAuthenticated>[0]): Uint8Array {
    const { device, epoch } = this.#identity;
    const [row] = this.#world.disks.rows<{ readonly certificate: Buffer }>(
      STORE.cryptographicDevice,
      'SELECT certificate FROM device WHERE device = ? AND epoch = ?',
      device,
      epoch,
    );
    const envelope = row === undefined ? null : parseEnvelope(row.certificate);
    const certificate = envelope?.ok === true ? parsePayload(DEVICE_CERTIFICATE, envelope.value) : null;
    if (certificate?.ok !== true) throw new Error('a device without its certificate');
    const key = macKey(this.#keys, certificate.value, 'statistics');
    return seal(message, hmacSha256(key, toBeAuthenticated(message)));
  }
}
