/**
 * What an operator does after the server's database was restored from an older backup (docs/backup.md): deposits that are on
 * paper are entered again, and archived funds grants are booked, until the server has taken all of them.
 */
import { OPERATOR, SERVER_URL, STORE } from './parties.ts';
import { CallBroken } from './network.ts';
import type { World } from './world.ts';

const AGAIN_MS = 10 * 60_000;

export class Bookkeeper {
  readonly #world: World;

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
        const paid = await network.remote(SERVER_URL, 'deposit', { credential: OPERATOR, ...deposit });
        if (!(paid as { readonly ok: boolean }).ok) return false;
      }
      for (const { funds_grant: grant } of grants) {
        const booked = await network.remote(SERVER_URL, 'restore-funds', { credential: OPERATOR, grant });
        if (!(booked as { readonly ok: boolean }).ok) return false;
      }
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      return false;
    }
    return true;
  }
}
