/**
 * A line whose host is not the host's program: its owner enrols a PSD, pays in, and then tries what a host can try.
 *
 * Has a PSD of its own with memory inside, a licensee's credential, every byte that passes through its hands, and what others of its kind
 * give it (confirmations and grants of other devices). Guarantees nothing; what must hold is that of its records only those enter the log
 * that its PSD sealed, that nothing is granted on postage which is not the tariff's, and that its books are as everybody's.
 */
import { parseEnvelope, seal } from '@countermark/protocol/cose';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { parsePayload, unsealedMessage } from '@countermark/protocol/message';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { mills } from '@countermark/protocol/money';
import { DirectHost, type DirectBatch, LETTER, LETTER_MILLS, letters, UNKNOWN_LEVEL } from './direct-host.ts';
import { type Observation, oneBitOff } from './observation.ts';
import type { Occasions } from './occasions.ts';
import type { Operators } from './operators.ts';
import { psdSocket, startThePsd, STORE } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import type { World } from './world.ts';

/** The kinds of what it does. */
export const HOST_MISDEEDS = [
  'host forges records',
  'host repeats and reorders',
  'phantom volume',
  'levels relabelled',
  'mailed pieces spoiled',
  'PSD given what is not its',
  'customer reaches for what is not its',
] as const;
type HostMisdeed = (typeof HOST_MISDEEDS)[number];

const MINUTE_MS = 60_000;
/** Of its PSD: no other line has it. */
const LINE = 90;
/** Its licensee, which the operator registered in good faith. */
export const ROGUE = 'lic_rogue';
const CUSTOMERS = ['one-ash', 'rogue-fir'];

export type DishonestHostOptions = {
  readonly occasions: Occasions;
  readonly seen: Observation;
  readonly operators: Operators;
};

export class DishonestHost {
  readonly #world: World;
  readonly #options: DishonestHostOptions;
  readonly #random: RandomStream;
  /** Records of its own, as the PSD sealed them. */
  readonly #records: Uint8Array[] = [];
  #host: DirectHost | undefined;

  constructor(world: World, options: DishonestHostOptions) {
    this.#world = world;
    this.#options = options;
    this.#random = world.stream('dishonest host');
  }

  begin(): void {
    const authentication = this.#random.chance(0.5) ? 'mac' : 'signature';
    this.#world.define(`psd-${LINE}`, async (setting) => {
      await startThePsd(setting, {
        line: LINE,
        licensee: ROGUE,
        authentication,
        memory: 'psd',
        transport: 'sessionless',
        forwarding: 'at-once',
        holdForMs: 0,
        recordCapacity: 1_000,
        firstRefillMills: 0n,
      });
    });
    this.#work().catch((error: unknown) => {
      this.#world.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
    });
  }

  end(): void {
    this.#world.remove(`psd-${LINE}`, 'its owner is gone');
  }

  async #work(): Promise<void> {
    const { occasions } = this.#options;
    while (!occasions.ended) {
      await this.#rest(this.#random.whole(10, 45) * MINUTE_MS);
      const host = this.#host ?? (await this.#enrolled());
      if (host === null) continue;
      this.#host = host;
      await this.#honestly(host);
      const kind = this.#random.pick(HOST_MISDEEDS.filter((one) => occasions.has(one)));
      if (occasions.may(kind)) await this.#does(kind, host);
    }
  }

  /** Its licensee, its deposit and its device; null where somebody does not answer yet. */
  async #enrolled(): Promise<DirectHost | null> {
    const { operators } = this.#options;
    const registered = await operators.ask<string>('register-licensee', { licensee: ROGUE });
    if (registered?.ok !== true) return null;
    const deposit = { licensee: ROGUE, amountMills: 100_000n, key: 'rogue' };
    if ((await operators.ask('deposit', deposit))?.ok !== true) return null;
    if (!this.#world.deposits.some(({ key }) => key === 'rogue')) this.#world.deposits.push(deposit);
    const host = new DirectHost(this.#world, {
      socket: psdSocket(LINE),
      credential: registered.value,
      random: this.#random,
    });
    const request = await host.psd(PSD.enrolmentRequest, {});
    if (request?.ok !== true) return null;
    type Enrolled = { readonly certificate: Uint8Array; readonly policy: Uint8Array };
    const invited = await operators.ask<{ readonly code: string }>('invite', { licensee: ROGUE });
    if (invited?.ok !== true) return null;
    const { code } = invited.value;
    const enrolled = await host.server<Enrolled>('enrol', { licensee: ROGUE, request: request.value.request, code });
    if (enrolled?.ok !== true) return null;
    const installed = await host.psd(PSD.install, enrolled.value);
    if (installed?.ok !== true) return null;
    const { device } = installed.value;
    await host.server('customers', { licensee: ROGUE, customers: CUSTOMERS as CustomerId[] });
    const policy = await host.server<Uint8Array>('policy', { device, above: 0 });
    if (policy?.ok === true) await host.psd(PSD.policy, { policy: policy.value });
    await host.refill(60_000n);
    return host;
  }

  /** What every host does: without it there is nothing to spoil. */
  async #honestly(host: DirectHost): Promise<void> {
    await this.#frank(host, letters(this.#random.whole(1, 6)));
    const answers = await host.submit(this.#records);
    if (answers?.ok !== true) return;
    for (const { confirmation } of answers.value)
      if (confirmation !== undefined) await host.psd(PSD.confirm, { confirmation });
  }

  async #frank(host: DirectHost, batch: DirectBatch): Promise<Uint8Array | null> {
    const record = await host.frank(batch);
    if (record !== null) this.#records.push(record);
    return record;
  }

  async #does(kind: HostMisdeed, host: DirectHost): Promise<void> {
    const random = this.#random;
    switch (kind) {
      case 'host forges records':
        if (this.#records.length > 0) await host.submit(this.#forged(random.pick(this.#records)));
        return;
      case 'host repeats and reorders':
        await this.#frank(host, letters(1));
        await this.#frank(host, letters(1));
        await host.submit([...this.#records, ...this.#records.slice(-3)].reverse());
        return;
      case 'phantom volume':
        await this.#wrongly(host, {
          pieces: [{ key: LETTER, pieces: random.whole(50, 200), eachMills: 1 }],
        });
        return;
      case 'levels relabelled':
        // The price of a presorted piece under the name of the dear one, or a level that no tariff has.
        await this.#wrongly(
          host,
          random.chance(0.5)
            ? { pieces: [{ key: LETTER, pieces: random.whole(2, 9), eachMills: 593 }] }
            : {
                pieces: [
                  { key: { ...LETTER, level: UNKNOWN_LEVEL }, pieces: random.whole(2, 9), eachMills: LETTER_MILLS },
                ],
              },
        );
        return;
      case 'mailed pieces spoiled':
        await this.#frank(host, { ...letters(random.whole(3, 9)), spoiled: random.whole(1, 3) });
        return;
      case 'PSD given what is not its':
        await this.#give(host);
        return;
      case 'customer reaches for what is not its':
        await this.#reach(host);
        return;
    }
  }

  async #wrongly(host: DirectHost, batch: DirectBatch): Promise<void> {
    // What of it the device seals, now or when it is asked next, is known by its cells (`observation.ts`).
    await this.#frank(host, batch);
    await host.submit(this.#records);
  }

  /** The record with something else in it, and what the device said of the original. */
  #forged(record: Uint8Array): Uint8Array[] {
    const envelope = parseEnvelope(record);
    if (!envelope.ok) return [];
    const { authentication, key, authenticator } = envelope.value;
    const statistics = parsePayload(BATCH_STATISTICS, envelope.value);
    if (!statistics.ok) return [];
    const { observed, declaration } = statistics.value;
    const with_ = (over: Partial<BatchStatistics>, holder = key): Uint8Array =>
      seal(unsealedMessage(BATCH_STATISTICS, authentication, holder, { ...statistics.value, ...over }), authenticator);
    const others = [...this.#options.seen.deviceOfLine.values()];
    const other = parseEnvelope(this.#random.pick(this.#records));
    const device = this.#random.pick(others) as BatchStatistics['device'];
    return [
      with_({
        observed: { ...observed, cells: observed.cells.map((cell) => ({ ...cell, pieces: cell.pieces * 10 })) },
      }),
      with_({ declaration: { ...declaration, customer: 'one-ash' as CustomerId } }),
      with_({ sequence: statistics.value.sequence + 1 }),
      with_({ licensee: 'lic_one' as LicenseeId }),
      with_({ device }, { ...key, holder: device }),
      with_(
        { observed: { ...observed, spoiledPostageMills: mills(0n), spoiledPieces: 0 } },
        { ...key, epoch: key.epoch + 1 },
      ),
      seal(
        unsealedMessage(BATCH_STATISTICS, authentication, key, statistics.value),
        other.ok ? other.value.authenticator : authenticator,
      ),
      record.subarray(0, record.length - this.#random.whole(1, 20)),
      Buffer.concat([record, Buffer.of(0)]),
    ].map((bytes) => new Uint8Array(bytes));
  }

  /** Confirmations, grants, policies and times of others, of before, and altered. */
  async #give(host: DirectHost): Promise<void> {
    const { disks } = this.#world;
    const random = this.#random;
    const altered = (bytes: Uint8Array): Uint8Array => oneBitOff(bytes, random.whole(0, 40));
    const grants = disks
      .rows<{ readonly funds_grant: Buffer }>(STORE.cryptographicDevice, 'SELECT funds_grant FROM funds_grant')
      .map(({ funds_grant: grant }) => new Uint8Array(grant));
    const confirmations = [...this.#options.seen.confirmations.values()].map((text) => Buffer.from(text, 'hex'));
    const policies = disks
      .rows<{ readonly policy: Buffer }>(STORE.server, 'SELECT policy FROM policy')
      .map(({ policy }) => new Uint8Array(policy));
    if (grants.length > 0) {
      const grant = random.pick(grants);
      await host.psd(PSD.fundsGrant, { grant });
      await host.psd(PSD.fundsRequest, { amountMills: mills(1_000n) });
      await host.psd(PSD.fundsGrant, { grant });
      await host.psd(PSD.fundsGrant, { grant: altered(grant) });
    }
    if (confirmations.length > 0) {
      const confirmation = random.pick(confirmations);
      await host.psd(PSD.confirm, { confirmation });
      await host.psd(PSD.confirm, { confirmation: altered(confirmation) });
    }
    if (policies.length > 0) await host.psd(PSD.policy, { policy: random.pick(policies) });
    if (this.#records.length > 0) await host.psd(PSD.confirm, { confirmation: random.pick(this.#records) });
  }

  /** With its own credential: others' devices, funds, grants and customers, and what is an operator's. */
  async #reach(host: DirectHost): Promise<void> {
    const { disks } = this.#world;
    const random = this.#random;
    const devices = [...this.#options.seen.deviceOfLine.values()];
    const device = random.pick(devices);
    const refusedAll = async (operation: string, parameters: object): Promise<void> => {
      const answer = await host.server(operation, parameters);
      if (answer?.ok === true) this.#world.violated('authorisation', `${operation} was answered to a stranger`);
    };
    await refusedAll('grants', { licensee: 'lic_one', after: 0 });
    await refusedAll('customers', { licensee: 'lic_one', customers: ['rogue-fir'] });
    await refusedAll('withdraw', { device, reason: 'mine' });
    await refusedAll('confirm-dead', { device });
    await refusedAll('deposit', { licensee: ROGUE, amountMills: 1_000_000n, key: 'forged' });
    const [other] = disks.rows<{ readonly device: string; readonly request: Buffer }>(
      STORE.server,
      'SELECT device, request FROM funds WHERE licensee <> ? AND length(request) > 0 LIMIT 1',
      ROGUE,
    );
    if (other !== undefined) {
      await refusedAll('funds', { request: new Uint8Array(other.request) });
      await refusedAll('settlement', { device: other.device });
      await refusedAll('attestation', { device: other.device, sequence: 1 });
    }
    // Its own postage, for a customer of the same name as another licensee's.
    await this.#frank(host, { ...letters(random.whole(1, 4)), customer: 'one-ash' });
    await host.submit(this.#records);
  }

  #rest(ms: number): Promise<void> {
    const { scheduler, people } = this.#world;
    return new Promise((resolve) => {
      scheduler.after(ms, people, 'somebody waited', resolve);
    });
  }
}
