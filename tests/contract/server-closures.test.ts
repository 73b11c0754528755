/**
 * A device that is closed on its owner's wish: its balance goes back once, after the log has its final statement, and only then.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import { POLICY } from '@countermark/protocol/messages/policy';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, eventually, licensee, type Parties, startParties, submit, value } from './server-parties.ts';

const DEPOSIT_MILLS = 500_000n;
const FUNDS_MILLS = 100_000n;

let parties: Parties;
beforeAll(async () => {
  parties = await startParties();
});
afterAll(() => parties.stop());

type Shown = {
  readonly standing: string;
  readonly closure: {
    readonly settled: string;
    readonly sequence: number | null;
    readonly returnedMills: string | null;
  };
  readonly acts: readonly { readonly act: string }[];
};

/** A licensee with a deposit, and a device with funds, two confirmed pieces and what is left. */
async function funded(id: string, authentication: 'signature' | 'mac' = 'signature') {
  const credential = await licensee(parties, id, String(DEPOSIT_MILLS));
  const device = await enrolled(parties, credential, id, authentication);
  await ask(parties, credential, '/v1/funds-requests', device.fundsRequest(1, FUNDS_MILLS));
  device.receive(FUNDS_MILLS);
  const [answer] = await submit(parties, credential, [device.record({ pieces: 2 })]);
  expect(answer?.outcome).toBe('accepted');
  return { id, credential, device };
}

async function closed(device: SimulatedDevice, by = parties.operator) {
  return ask(parties, by, `/v1/devices/${device.device}/closure`, { reason: 'line taken down' });
}

async function shown(device: SimulatedDevice): Promise<Shown> {
  return (await ask(parties, parties.operator, `/v1/devices/${device.device}`)).json<Shown>();
}

async function settled(device: SimulatedDevice): Promise<Shown> {
  return eventually(
    () => shown(device),
    ({ closure }) => closure.settled !== 'open',
  );
}

const depositOf = (id: string) => parties.service.ledger.balance(`deposit:${id}`);
const accountOf = (device: SimulatedDevice) => parties.service.ledger.balance(`device:${device.device}`);

describe.each(['signature', 'mac'] as const)('A device that is closed (%s)', (authentication) => {
  it('is told by its policy, is not suspended, and has its balance back once, with its final statement', async () => {
    const { id, credential, device } = await funded(`lic_closing-${authentication}`, authentication);
    expect((await closed(device)).json()).toMatchObject({ settled: 'open', sequence: null });
    const policy = value(
      parsePayload(
        POLICY,
        value(parseEnvelope((await ask(parties, credential, `/v1/devices/${device.device}/policy`)).body)),
      ),
    );
    expect(policy).toMatchObject({ closing: true, maxUnconfirmedPostageMills: 0n });
    expect(await shown(device)).toMatchObject({ standing: 'closing', closure: { settled: 'open' } });
    // What it still has to report counts as ever.
    const [late] = await submit(parties, credential, [device.record({ pieces: 3 })]);
    expect(late?.outcome).toBe('accepted');
    const used = device.registers.ascendingMills;
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - FUNDS_MILLS);
    const statement = device.finalStatement();
    const answers = [
      ...(await submit(parties, credential, [statement])),
      ...(await submit(parties, credential, [statement])),
    ];
    expect(answers.map(({ outcome }) => outcome)).toEqual(['accepted', 'already-accepted']);
    const after = await settled(device);
    expect(after).toMatchObject({
      standing: 'closed',
      closure: { settled: 'refunded', sequence: 3, returnedMills: String(FUNDS_MILLS - used) },
    });
    expect(after.acts.map(({ act }) => act)).toEqual(['closing', 'refunded']);
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - used);
    expect(await accountOf(device)).toBe(0n);
    await parties.restart();
    await closed(device);
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - used);
    expect((await shown(device)).acts.length).toBe(2);
    expect(await parties.service.ledger.problems()).toEqual([]);
  });

  it('gets no funds after its statement, and nothing of a copy continues its chain', async () => {
    const { id, credential, device } = await funded(`lic_copied-${authentication}`, authentication);
    const copy = device.copy();
    const onwards = device.copy();
    await closed(device);
    await submit(parties, credential, [device.finalStatement()]);
    await settled(device);
    const deposit = await depositOf(id);
    const asked = await ask(parties, credential, '/v1/funds-requests', copy.fundsRequest(2, 1_000n));
    expect(asked.json()).toMatchObject({ code: 'device-withdrawn' });
    onwards.sequence = device.sequence;
    onwards.head = device.head;
    const [after] = await submit(parties, credential, [onwards.record({ pieces: 1 })]);
    expect(after).toMatchObject({ outcome: 'rejected', rejection: { code: 'chain-ended' } });
    const [fork] = await submit(parties, credential, [copy.record({ pieces: 1 })]);
    expect(fork).toMatchObject({ outcome: 'rejected', rejection: { code: 'fork' } });
    const evidence = await ask(parties, parties.operator, `/v1/devices/${device.device}/evidence`);
    expect(
      evidence
        .json<{ cases: { code: string }[] }>()
        .cases.map(({ code }) => code)
        .sort(),
    ).toEqual(['chain-ended', 'fork']);
    expect(await shown(device)).toMatchObject({ standing: 'suspended', closure: { settled: 'refunded' } });
    expect(await depositOf(id)).toBe(deposit);
  });
});

describe('Nothing is refunded', () => {
  it('without an operator’s order, however authentic the statement, until one gives it', async () => {
    const { id, credential, device } = await funded('lic_unordered');
    await submit(parties, credential, [device.finalStatement()]);
    await eventually(
      () => shown(device),
      ({ standing }) => standing === 'closed',
    );
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - FUNDS_MILLS);
    expect((await closed(device, credential)).status).toBe(401);
    await closed(device);
    await parties.restart();
    expect(await settled(device)).toMatchObject({ closure: { settled: 'refunded' } });
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - device.registers.ascendingMills);
  });

  it('of a device that forked before its statement came', async () => {
    const { id, credential, device } = await funded('lic_forked');
    const copy = device.copy();
    await closed(device);
    await submit(parties, credential, [device.record({ pieces: 1 })]);
    await submit(parties, credential, [copy.record({ pieces: 4 })]);
    await submit(parties, credential, [device.finalStatement()]);
    expect(await settled(device)).toMatchObject({ standing: 'suspended', closure: { settled: 'withheld' } });
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - FUNDS_MILLS);
  });

  it('of what the ledger never granted: it waits', async () => {
    const { id, credential, device } = await funded('lic_invented');
    device.receive(70_000n);
    await closed(device);
    const [answer] = await submit(parties, credential, [device.finalStatement()]);
    expect(answer?.outcome).toBe('accepted');
    await eventually(
      () => shown(device),
      ({ standing }) => standing === 'closed',
    );
    await parties.restart();
    expect((await shown(device)).closure.settled).toBe('open');
    expect(await depositOf(id)).toBe(DEPOSIT_MILLS - FUNDS_MILLS);
  });

  it('a second time for a device that is said to be dead after its end', async () => {
    const { id, credential, device } = await funded('lic_closed-and-dead');
    const declared = (reason: string) =>
      ask(parties, parties.operator, `/v1/devices/${device.device}/death`, { reason });
    await closed(device);
    await submit(parties, credential, [device.finalStatement()]);
    await settled(device);
    const deposit = await depositOf(id);
    expect((await declared('burnt')).json()).toMatchObject({ code: 'device-withdrawn' });
    expect((await shown(device)).standing).toBe('closed');
    expect(await depositOf(id)).toBe(deposit);
  });

  it('of a device that is withdrawn or suspended: such a one is not closed', async () => {
    const { device } = await funded('lic_withdrawn');
    await ask(parties, parties.operator, `/v1/devices/${device.device}/withdrawal`, { reason: 'stolen' });
    expect((await closed(device)).json()).toMatchObject({ code: 'device-withdrawn' });
  });
});
