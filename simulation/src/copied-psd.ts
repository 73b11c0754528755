/**
 * A copied PSD: a second process on a copy of the store, with the same keys and registers, driven by its owner himself.
 *
 * In secret it franks and prints, and reports nothing: the attack that the design does not stop. It also takes what the original is
 * given (funds grants, confirmations of what both have in common) out of the host's journal. In the open it reports, or asks for
 * funds: a fork, or a conflict, that the server must see.
 */
import type { Digest } from '@countermark/protocol/digest';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { mills } from '@countermark/protocol/money';
import { DirectHost, LETTER, LETTER_MILLS } from './direct-host.ts';
import type { Observation } from './observation.ts';
import { type LineSetting, psdSocket, startThePsd, STORE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import type { Standing } from './standing.ts';
import type { World } from './world.ts';

export type CopiedPsdOptions = {
  readonly of: LineSetting;
  /** Its own number: another than any line's. */
  readonly number: number;
  readonly secret: boolean;
  readonly credential: string;
  readonly random: RandomStream;
  readonly seen: Observation;
  readonly standing: Standing;
};

export class CopiedPsd {
  readonly #world: World;
  readonly #options: CopiedPsdOptions;
  readonly #host: DirectHost;

  constructor(world: World, options: CopiedPsdOptions) {
    this.#world = world;
    this.#options = options;
    const { of, number, credential, random, secret, seen, standing } = options;
    world.disks.put(STORE.psd(number), world.disks.copy(STORE.psd(of.line)));
    if (secret) seen.secretCopies.add(number);
    else this.#inTheOpen();
    standing.copied(number, secret);
    world.define(`psd-${number}`, async (setting) => {
      await startThePsd(setting, { ...of, line: number });
    });
    this.#host = new DirectHost(world, { socket: psdSocket(number), credential, random });
  }

  /** Does the next thing. */
  async turn(): Promise<void> {
    const { secret, random } = this.#options;
    if (secret) await this.#takeWhatTheOriginalIsGiven();
    const record = await this.#host.frank({
      pieces: [{ key: LETTER, pieces: random.whole(1, 12), eachMills: LETTER_MILLS }],
    });
    if (secret) {
      if (record !== null) this.#world.count('batches of copies in secret');
      return;
    }
    if (random.chance(0.3)) await this.#host.refill(BigInt(random.whole(5, 50) * 1_000));
    if (record === null) return;
    const answered = await this.#host.submit([record]);
    if (answered?.ok === true) this.#world.count('records of copies reported');
  }

  /** Ends it: its owner has burnt it. */
  end(): void {
    this.#world.remove(`psd-${this.#options.number}`, 'its owner burns it');
  }

  #inTheOpen(): void {
    const { of, seen } = this.#options;
    const device = seen.deviceOfLine.get(of.line);
    if (device !== undefined) seen.branched.add(device);
  }

  /** Grants name a number and a cumulative total, not the registers: what the original applied, its copy applies, too. */
  async #takeWhatTheOriginalIsGiven(): Promise<void> {
    const { disks } = this.#world;
    const path = STORE.host(this.#options.of.line);
    const status = await this.#host.psd(PSD.status, {});
    if (status?.ok !== true) return;
    const held = await this.#host.psd(PSD.records, {});
    for (const { sequence, digest } of held?.ok === true ? held.value.records : []) {
      const confirmation = confirmationOf(this.#world, path, sequence, digest);
      if (confirmation !== null) await this.#host.psd(PSD.confirm, { confirmation });
    }
    const asked = await this.#host.psd(PSD.fundsRequest, { amountMills: mills(1_000n) });
    if (asked?.ok !== true) return;
    const [given] = disks.rows<{ readonly bytes: Buffer }>(
      path,
      'SELECT bytes FROM funds_grant WHERE number = ?',
      BigInt(asked.value.number),
    );
    if (given === undefined) return;
    const taken = await this.#host.psd(PSD.fundsGrant, { grant: new Uint8Array(given.bytes) });
    if (taken?.ok === true) this.#world.count('funds grants taken by copies');
  }
}

function confirmationOf({ disks }: World, path: string, sequence: number, digest: Digest): Uint8Array | null {
  const [row] = disks.rows<{ readonly confirmation: Buffer | null }>(
    path,
    'SELECT confirmation FROM record WHERE sequence = ? AND digest = ?',
    BigInt(sequence),
    digest,
  );
  return row?.confirmation == null ? null : new Uint8Array(row.confirmation);
}
