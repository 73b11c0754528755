/**
 * Money is conserved whatever becomes of a device: records in time and late, funds asked for, declared dead by one and by two, the
 * window passed or not, refunded and billed, in any order that chance finds.
 */
import { randomBytes } from 'node:crypto';
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, eventually, licensee, type Parties, startParties, submit } from '../contract/server-parties.ts';

const DAY_MS = 86_400_000;
const WINDOW_DAYS = 30;
const DEPOSIT_MILLS = 500_000n;
const FUNDS_MILLS = 100_000n;

const second = randomBytes(32).toString('hex');
let movedMs = 0;
const clock: Clock = {
  nowMs: () => systemClock.nowMs() + movedMs,
  sleep: (ms, signal) => systemClock.sleep(ms, signal),
};
let parties: Parties;
beforeAll(async () => {
  const operators = [{ name: 'colleague', credential: second }];
  parties = await startParties({ clock, settings: { operators, scanWindowDays: WINDOW_DAYS } });
});
afterAll(() => parties.stop());

type Shown = {
  readonly death: {
    readonly settled: string;
    readonly confirmedBy: string | null;
    readonly refundAfterMs: number;
  } | null;
  readonly acts: readonly { readonly act: string }[];
  readonly standing: string;
};

/** A world of one licensee with one device. */
class World {
  readonly id: string;
  readonly credential: string;
  readonly device: SimulatedDevice;
  /** Franked, and not yet reported. */
  readonly kept: Uint8Array[] = [];
  #requests = 1;

  constructor(id: string, credential: string, device: SimulatedDevice) {
    this.id = id;
    this.credential = credential;
    this.device = device;
  }

  frank(pieces: number): void {
    if (this.device.registers.descendingMills >= 740n * BigInt(pieces)) this.kept.push(this.device.record({ pieces }));
  }

  async report(): Promise<void> {
    if (this.kept.length === 0) return;
    const answers = await submit(parties, this.credential, this.kept.splice(0));
    expect(answers.every(({ outcome }) => outcome === 'accepted')).toBe(true);
    await this.booked();
  }

  async fund(): Promise<void> {
    const deposit = `deposit:${this.id}`;
    const before = await parties.service.ledger.balance(deposit);
    this.#requests += 1;
    const request = this.device.fundsRequest(this.#requests, FUNDS_MILLS / 4n);
    await ask(parties, this.credential, '/v1/funds-requests', request);
    const grantedMills = before - (await parties.service.ledger.balance(deposit));
    if ((await this.shown()).standing !== 'good') expect(grantedMills).toBe(0n);
    if (grantedMills > 0n) this.device.receive(grantedMills);
  }

  async booked(): Promise<void> {
    await eventually(
      async () => (await ask(parties, this.credential, `/v1/devices/${this.device.device}/settlement`)).json(),
      (seen) => seen['booked'] === seen['logged'],
    );
  }

  async death(by: string, path: string, body: object): Promise<void> {
    await ask(parties, by, `/v1/devices/${this.device.device}/death${path}`, body);
  }

  async shown(): Promise<Shown> {
    return (await ask(parties, parties.operator, `/v1/devices/${this.device.device}`)).json<Shown>();
  }

  async check(): Promise<void> {
    const { ledger } = parties.service;
    expect(await ledger.problems()).toEqual([]);
    const inDevice = await ledger.balance(`device:${this.device.device}`);
    const deposit = await ledger.balance(`deposit:${this.id}`);
    expect(deposit + inDevice + (await ledger.balance(`postage:${this.id}`))).toBe(DEPOSIT_MILLS);
    const { death, acts } = await this.shown();
    expect(acts.filter(({ act }) => act === 'refunded').length).toBeLessThanOrEqual(1);
    if (death?.settled === 'refunded') {
      expect(inDevice).toBe(0n);
      expect(clock.nowMs()).toBeGreaterThanOrEqual(death.refundAfterMs);
    }
  }
}

const STEPS = fc.oneof(
  fc.record({ does: fc.constant('frank' as const), much: fc.integer({ min: 1, max: 20 }) }),
  fc.record({ does: fc.constant('move' as const), much: fc.integer({ min: 1, max: 40 }) }),
  fc.record({
    does: fc.constantFrom('report', 'fund', 'declare', 'confirm', 'confirm-alone', 'settle'),
    much: fc.constant(0),
  }),
);

const some = fc.array(STEPS, { maxLength: 3 });
const then = (does: 'declare' | 'confirm' | 'settle' | 'report') => fc.constant([{ does, much: 0 }]);
/** Most worlds go the whole way to the refund, with anything in between and a record late; the others wherever chance leads. */
const LIVES = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(some, then('declare'), some, then('confirm'), some) },
  { weight: 1, arbitrary: fc.tuple(some, some, some, some, some) },
);
const ENDS = fc.tuple(
  some,
  fc.constant([{ does: 'move' as const, much: WINDOW_DAYS + 1 }]),
  then('settle'),
  some,
  fc.constant([{ does: 'frank' as const, much: 2 }]),
  then('report'),
);

let worlds = 0;

test('Money is conserved at every step, and a refund is made once at most', async () => {
  await fc.assert(
    fc.asyncProperty(LIVES, ENDS, async (life, end) => {
      worlds += 1;
      const id = `lic_world-${worlds}`;
      const credential = await licensee(parties, id, String(DEPOSIT_MILLS));
      const device = await enrolled(parties, credential, id);
      await ask(parties, credential, '/v1/funds-requests', device.fundsRequest(1, FUNDS_MILLS));
      device.receive(FUNDS_MILLS);
      const world = new World(id, credential, device);
      const deeds: Readonly<Record<string, (much: number) => Promise<void> | void>> = {
        frank: (much) => {
          world.frank(much);
        },
        move: (much) => {
          movedMs += much * DAY_MS;
        },
        report: () => world.report(),
        fund: () => world.fund(),
        declare: () => world.death(parties.operator, '', { reason: 'lost' }),
        confirm: () => world.death(second, '/confirmation', {}),
        'confirm-alone': () => world.death(parties.operator, '/confirmation', {}),
        settle: async () => {
          await parties.service.deadDevices.settleDue();
        },
      };
      for (const { does, much } of [...life.flat(), ...end.flat()]) {
        await deeds[does]?.(much);
        await world.check();
      }
      // In the end everything turns up, and the window passes: what was franked was paid, to the mill.
      await world.report();
      movedMs += (WINDOW_DAYS + 1) * DAY_MS;
      await parties.service.deadDevices.settleDue();
      await world.check();
      expect(await parties.service.ledger.balance(`postage:${id}`)).toBe(device.registers.ascendingMills);
      const { death } = await world.shown();
      if (death?.confirmedBy != null) expect(death.settled).toBe('refunded');
    }),
    { numRuns: 12 },
  );
});
