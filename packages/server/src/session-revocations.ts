/**
 * Revoking the session keys of a device, when an operator thinks that somebody else has one.
 *
 * Guarantees: the cryptographic device revokes, durably, and refuses from then on (its own register decides: this server's word only takes
 * away); then the operator's act is written. Asked again, it is done again, for the keys that the device has by then. Records of the device
 * are still accepted, without a session; its next key epoch has sessions again.
 */
import type { DeviceId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, recordAct } from './audit-trail.ts';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { Registry } from './registry.ts';
import type { ServerTables } from './tables.ts';

export type SessionRevocationParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly registry: Registry;
  readonly cryptographicDevice: Pick<CryptographicDevice, 'revokeSessions'>;
  readonly nowMs: () => number;
};

/** `epoch`: of the last key that was revoked. */
export type SessionRevocation = { readonly epoch: number; readonly reason: string };

export class SessionRevocations {
  readonly #parts: SessionRevocationParts;

  constructor(parts: SessionRevocationParts) {
    this.#parts = parts;
  }

  /** Rejections: `unknown-device`, `try-again`. */
  async revoke(device: DeviceId, reason: string, by: Actor): Promise<Result<SessionRevocation>> {
    const { database, registry, cryptographicDevice, nowMs } = this.#parts;
    const licensee = await registry.deviceLicensee(device);
    if (licensee === null) return refuse(rejection('unknown-device', { device }));
    const revoked = await cryptographicDevice.revokeSessions(device, licensee);
    if (!revoked.ok) return revoked;
    const epoch = revoked.value;
    const words = `session keys up to epoch ${epoch}: ${reason}`;
    await database.transaction((tables) =>
      recordAct(tables, { act: 'sessions-revoked', by, subject: device, words, atMs: nowMs() }),
    );
    return accept({ epoch, reason });
  }
}
