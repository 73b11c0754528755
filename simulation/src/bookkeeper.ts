/**
 * What an operator does after the server's database was restored from an older backup (docs/backup.md): deposits that are on
 * paper are entered again, and archived funds grants are booked, until the server has taken all of them.
 */
import type { Result } from '@countermark/protocol/result';
import { OPERATOR, SERVER_URL, STORE } from './parties.ts';
import { CallBroken } from './network.ts';
import type { World } from './world.ts';

const AGAIN_MS = 10 * 60_000;
/** So often it is tried for a device that the server does not know. */
const UNKNOWN_MOST = 24;

export class Bookkeeper {
  readonly #world: World;
  readonly #entered = new Set<string>();
  /** Grants of a device that the server does not know: its host gives the certificates back soon, if it has one. */
  #unknown = 0;

  constructor(world: World) {
    this.#world = world;
  }

  /** Begins soon, and goes on until everything is entered. */
  begin(): void {
    this.#after(60_000);
  }

  #after(ms: number): void {
    const { scheduler, people } = this.#world;
    scheduler.after(ms, people, 'the bookkeeper enters what the server lost', () => {
      this.#enter().then(
        (entered) => {
          if (!entered) this.#after(AGAIN_MS);
        },
        (error: unknown) => {
          this.#world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
        },
      );
    });
  }

  async #enter(): Promise<boolean> {
    const { disks, deposits, network } = this.#world;
    const grants = disks.rows<{ readonly funds_grant: Buffer }>(
      STORE.cryptographicDevice,
      'SELECT funds_grant FROM funds_grant ORDER BY device, number',
    );
    try {
      for (const deposit of [...deposits]) {
        if (this.#entered.has(deposit.key)) continue;
        const paid = await network.remote(SERVER_URL, 'deposit', { credential: OPERATOR, ...deposit });
        if (!(paid as { readonly ok: boolean }).ok) return false;
        this.#entered.add(deposit.key);
      }
      let unknown = false;
      for (const { funds_grant: grant } of grants) {
        const name = grant.toString('base64');
        if (this.#entered.has(name)) continue;
        const booked = (await network.remote(SERVER_URL, 'restore-funds', {
          credential: OPERATOR,
          grant,
        })) as Result<unknown>;
        if (booked.ok) this.#entered.add(name);
        else if (booked.rejection.code === 'unknown-device') unknown = true;
        else return false;
      }
      if (unknown) {
        this.#unknown += 1;
        return this.#unknown > UNKNOWN_MOST;
      }
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      return false;
    }
    return true;
  }
}
