/**
 * The people at the server who look after devices: they withdraw what forked or must not go on, and do it again where a restored server
 * has forgotten it.
 *
 * Guarantees that what was decided stands on paper: it is asked for until the server's own list says so. A line whose device has ended is
 * told to whoever franks there.
 */
import type { Result } from '@countermark/protocol/result';
import type { DeviceLine, Standing } from '@countermark/server/device-file';
import { CallBroken } from './network.ts';
import { DAY_MS, OPERATOR, SCAN_WINDOW_DAYS, SECOND_OPERATOR, SERVER_URL, STORE } from './parties.ts';
import type { World } from './world.ts';

const LOOK_MS = 40 * 60_000;
const LONG_MS = (SCAN_WINDOW_DAYS + 1) * DAY_MS;

export class Operators {
  readonly #world: World;
  readonly #onEnded: (device: string) => void;
  /** Devices that are to be withdrawn, and why. */
  readonly #withdrawn = new Map<string, string>();
  readonly #dead = new Set<string>();
  /** Devices that are to be closed, and their lines. */
  readonly #closed = new Map<string, number>();
  #atRest = false;

  /** `onEnded` is told of each device that is withdrawn, when it is decided. */
  constructor(world: World, onEnded: (device: string) => void) {
    this.#world = world;
    this.#onEnded = onEnded;
  }

  begin(): void {
    this.#world.scheduler.after(LOOK_MS, this.#world.people, 'operators look at the devices', () => {
      this.#look().then(
        () => {
          this.begin();
        },
        (error: unknown) => {
          this.#world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
        },
      );
    });
  }

  /** Whether the last look found nothing to do. */
  get atRest(): boolean {
    return this.#atRest;
  }

  /** Decides that the device ends. */
  withdraw(device: string, reason: string): void {
    if (this.#withdrawn.has(device)) return;
    this.#withdrawn.set(device, reason);
    this.#atRest = false;
    this.#world.count('devices withdrawn');
    this.#onEnded(device);
  }

  /** Somebody else may have the session key of the device. Asked once: who needs it asks again. */
  async revokeSessions(device: string): Promise<void> {
    const revoked = await this.ask('revoke-sessions', { device, reason: 'a disk was sold' });
    if (revoked?.ok === true) this.#world.count('session keys revoked');
  }

  /** Decides that the device is closed, on its owner's wish. */
  close(device: string, line: number): void {
    if (this.#closed.has(device) || this.#dead.has(device) || this.#withdrawn.has(device)) return;
    this.#closed.set(device, line);
    this.#atRest = false;
    this.#world.count('devices closed');
    this.#onEnded(device);
  }

  /**
   * Whether a line can be taken down: where its device is closed, that has made its final statement and erased its keys, and the server says that it
   * is closed. Its host feeds a server that was put back until then (docs/backup.md).
   */
  hasEnded(line: number): boolean {
    const [device] = [...this.#closed].find(([, of]) => of === line) ?? [];
    if (device === undefined) return true;
    const [psd] = this.#world.disks.rows<{ readonly keys: bigint }>(
      STORE.psd(line),
      'SELECT (SELECT count(*) FROM secret) AS keys FROM device WHERE final_sequence IS NOT NULL',
    );
    return psd?.keys === 0n && this.#isSettled(device) === true;
  }

  /** Two of them decide that the device is dead. */
  declareDead(device: string): void {
    if (this.#dead.has(device) || this.#withdrawn.has(device)) return;
    this.#dead.add(device);
    this.#atRest = false;
    this.#onEnded(device);
  }

  /** Asks the server as an operator; null where it does not answer. */
  async ask<T>(operation: string, parameters: object, credential: string = OPERATOR): Promise<Result<T> | null> {
    try {
      return (await this.#world.network.remote(SERVER_URL, operation, { credential, ...parameters })) as Result<T>;
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      return null;
    }
  }

  async #look(): Promise<void> {
    const listed = await this.ask<readonly DeviceLine[]>('devices', {});
    if (listed?.ok !== true) {
      this.#atRest = false;
      return;
    }
    const standings = new Map<string, Standing>(listed.value.map(({ device, standing }) => [device, standing]));
    for (const { device, standing } of listed.value) {
      if (standing !== 'suspended') continue;
      const evidence = await this.ask<readonly unknown[]>('evidence', { device });
      if (evidence?.ok === true) this.withdraw(device, `${evidence.value.length} records that were not accepted`);
    }
    // The authority sees forks that its server has forgotten, and says so.
    for (const { device } of this.#world.disks.rows<{ readonly device: string }>(
      STORE.authority,
      "SELECT DISTINCT device FROM quarantine WHERE code = 'fork'",
    )) {
      this.withdraw(device, 'two different records at the authority');
    }
    let left = 0;
    for (const [device, reason] of this.#withdrawn) {
      const standing = standings.get(device);
      if (standing === undefined) continue;
      if (standing === 'withdrawn' || standing === 'dead') continue;
      left += 1;
      await this.ask('withdraw', { device, reason });
    }
    for (const device of this.#closed.keys()) if (!(await this.#ended(device, standings.get(device)))) left += 1;
    for (const device of this.#dead) if (!(await this.#buried(device, standings.get(device)))) left += 1;
    this.#atRest = left === 0;
  }

  /** Whether nothing is to do about a device that is closed: its balance went back, once it has reported all. */
  async #ended(device: string, standing: Standing | undefined): Promise<boolean> {
    // Never enrolled; or it forked, or died, and ends otherwise.
    if (standing === undefined) return true;
    if (standing === 'suspended' || standing === 'withdrawn' || standing === 'dead') {
      this.#closed.delete(device);
      return true;
    }
    const isSettled = this.#isSettled(device);
    if (isSettled === null) await this.ask('close-device', { device, reason: 'the line is taken down' });
    return isSettled === true;
  }

  /** Whether the server has the last record of a device that was ordered closed; null where it knows of no order. */
  #isSettled(device: string): boolean | null {
    const [closure] = this.#world.disks.rows<{ readonly settled: string }>(
      STORE.server,
      "SELECT settled FROM closure WHERE device = ? AND operator <> ''",
      device,
    );
    return closure === undefined ? null : closure.settled !== '';
  }

  /** Whether nothing is to do about a dead device any more: its balance is settled, or waits for a clock that was years ahead. */
  async #buried(device: string, standing: Standing | undefined): Promise<boolean> {
    // Never enrolled; or after the backup that was restored, and its host has no device to ask: nobody makes it known again.
    if (standing === undefined) return true;
    if (standing !== 'dead') {
      await this.ask('declare-dead', { device, reason: 'burnt' });
      const alone = await this.ask('confirm-dead', { device });
      if (alone?.ok === true) this.#world.violated('dead devices', `${device} was ended by one person`);
      const both = await this.ask('confirm-dead', { device }, SECOND_OPERATOR);
      // Known as a copy by now: it is withdrawn, and nothing is paid back.
      if (both?.ok === false && both.rejection.code === 'device-forked') {
        this.#dead.delete(device);
        this.withdraw(device, 'dead, and copied');
      }
      return false;
    }
    const [death] = this.#world.disks.rows<{ readonly settled: string; readonly refund_after_ms: bigint }>(
      STORE.server,
      'SELECT settled, refund_after_ms FROM death WHERE device = ?',
      device,
    );
    if (death === undefined) return false;
    return death.settled !== '' || Number(death.refund_after_ms) > this.#world.scheduler.nowMs + LONG_MS;
  }
}
