/**
 * The core does what the table of states says: every command in every state.
 *
 * Each command is given what it needs otherwise (an open batch, a held record, a pending request), so that only the state decides.
 */
import { NO_DIGEST } from '@countermark/protocol/digest';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { POLICY, SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { describe, expect, it } from 'vitest';
import { START_MS } from '../../testing/authority.ts';
import { CoreDevice, readyDevice, SOFTWARE } from '../../testing/core-device.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../testing/mailing.ts';
import { COMMANDS, type Command, LIFECYCLE, lifeState, type StateName } from './lifecycle.ts';
import { stateName } from './policy.ts';
import { type DeviceState, UNINITIALISED } from './state.ts';
import type { Input } from './step.ts';

const DAY_MS = 86_400_000;
const BATCH = batchNumbered(2);

type Asked = Result<unknown>;
/** A device that has all that the command needs, and the command. */
type Prepared = { readonly device: CoreDevice; readonly ask: () => Asked };

/** Operational, with one record that waits for its confirmation. */
function reported(memory: 'host' | 'psd' = 'host'): CoreDevice {
  const device = readyDevice({ memory, policy: { lockAfterDays: 28 } });
  device.open(batchNumbered(1));
  device.frank(batchNumbered(1), 0, pieces(2));
  device.finish(batchNumbered(1));
  return device;
}

function withBatch(memory: 'host' | 'psd' = 'host'): CoreDevice {
  const device = reported(memory);
  device.open(BATCH);
  device.frank(BATCH, 0, pieces(2));
  return device;
}

function policyOf(device: CoreDevice, version: number, over = {}) {
  const policy = device.authority.policy(device.device, { lockAfterDays: 28, version, ...over });
  return device.authority.verified(POLICY, policy);
}

const withdrawing = { maxUnconfirmedPostageMills: mills(0n) };

/** The next policy that the device may be given: one that is withdrawn is never given another kind. */
function nextPolicy(device: CoreDevice) {
  return policyOf(device, 9, stateName(device.state) === 'withdrawn' ? withdrawing : {});
}

const PREPARED: Readonly<Record<Command, () => Prepared>> = {
  initialise: () => asking(reported(), (device) => ({ kind: 'initialise', identity: device.identity })),
  install: () =>
    asking(reported(), (device) => ({
      kind: 'install',
      certificate: device.certificates[0] as (typeof device.certificates)[number],
      policy: nextPolicy(device),
    })),
  policy: () => asking(reported(), (device) => ({ kind: 'policy', policy: nextPolicy(device) })),
  time: () =>
    asking(reported(), (device) => ({
      kind: 'time',
      time: device.authority.verified(SIGNED_TIME, { device: device.device, timeMs: START_MS + 90 * DAY_MS }),
    })),
  open: () => asking(reported(), () => ({ kind: 'open', declaration: declarationOf(BATCH), usedBefore: false })),
  frank: () => {
    const device = withBatch();
    return { device, ask: () => device.ask(chunkOf(BATCH, 2, pieces(1))) };
  },
  spoil: () =>
    asking(withBatch(), (device) => ({
      kind: 'spoil',
      batch: BATCH,
      pieceNumbers: [device.state.registers.pieces],
    })),
  close: () => asking(withBatch(), () => ({ kind: 'close', batch: BATCH, reprints: 0 })),
  recount: () => {
    const device = withBatch();
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    return asking(device, () => ({ kind: 'recount', records: device.hostRecords(BATCH) }));
  },
  'recount-own': () => {
    const device = withBatch('psd');
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    const [first] = device.journal.get(BATCH) ?? [];
    if (first === undefined) throw new Error('nothing was franked');
    return asking(device, () => ({ kind: 'recount-own', batch: BATCH, chunk: first.chunk }));
  },
  seal: () => {
    const device = withBatch();
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    device.recount(BATCH);
    return asking(device, () => ({ kind: 'seal', batch: BATCH, incomplete: false, software: SOFTWARE }));
  },
  confirm: () => {
    const device = reported();
    const confirm = () => {
      const [held] = device.state.unconfirmed;
      // Where nothing is held, of a record that nobody has.
      return device.confirm(held?.sequence ?? 1, held?.digest ?? NO_DIGEST);
    };
    return { device, ask: confirm };
  },
  'begin-rotation': () => {
    const device = reported();
    return { device, ask: () => device.beginRotation() };
  },
  rotate: () => {
    const device = reported();
    device.beginRotation();
    const certificate = device.nextCertificate();
    return { device, ask: () => device.rotate(certificate) };
  },
  end: () => {
    const inspection = { inspectedAtMs: START_MS, warnAfterDays: 1, lockAfterDays: 28 };
    return asking(readyDevice({ policy: { inspection } }), () => ({ kind: 'end', software: SOFTWARE }));
  },
  'request-funds': () => asking(reported(), () => ({ kind: 'request-funds', amountMills: mills(1_000n) })),
  'book-funds': () => {
    const device = reported();
    const [asked] = device.do({ kind: 'request-funds', amountMills: mills(1_000n) });
    if (asked?.kind !== 'request-funds') throw new Error('nothing was asked');
    const grant = device.authority.verified(FUNDS_GRANT, device.authority.grant(device.sealed(asked.unsealed)));
    return asking(device, () => ({ kind: 'book-funds', grant }));
  },
};

function asking(device: CoreDevice, input: (device: CoreDevice) => Input): Prepared {
  return { device, ask: () => device.try(input(device)) };
}

/** How an operational device comes to a state, or, for those before, what is left of it there. */
const BROUGHT_TO: Readonly<Record<StateName, (device: CoreDevice) => void>> = {
  uninitialised: (device) => {
    device.state = { ...UNINITIALISED, recordCapacity: 10 };
  },
  keyed: (device) => {
    device.state = { ...UNINITIALISED, recordCapacity: 10, identity: device.identity };
  },
  authorised: (device) => {
    const certificate = device.authority.verified(DEVICE_CERTIFICATE, device.authority.certificate(device.identity));
    device.certificates.splice(0, 1, certificate);
    device.state = { ...UNINITIALISED, recordCapacity: 10, identity: device.identity, certificate };
  },
  operational: () => undefined,
  locked: (device) => {
    device.time(START_MS + 28 * DAY_MS);
  },
  withdrawn: (device) => {
    device.do({ kind: 'policy', policy: policyOf(device, 2, { ...withdrawing, closing: true }) });
  },
  // Whatever it had in hand before: a device that has ended has nothing but its last record.
  ended: (device) => {
    device.state = { ...device.state, batch: null, unconfirmed: [], pendingFunds: null };
    BROUGHT_TO.withdrawn(device);
    device.do({ kind: 'end', software: SOFTWARE });
  },
};

const STATES = Object.keys(LIFECYCLE) as StateName[];
const CASES = STATES.flatMap((state) => (Object.keys(COMMANDS) as Command[]).map((command) => ({ state, command })));

describe('every command in every state', () => {
  it.each(CASES)('$state, $command', ({ state, command }) => {
    const { device, ask } = PREPARED[command]();
    BROUGHT_TO[state](device);
    expect(lifeState(device.state)).toBe(state);
    const before: DeviceState = device.state;
    const answer = ask();
    const said = LIFECYCLE[state][command];
    if (said.kind === 'taken') {
      expect(answer).toMatchObject({ ok: true });
      expect(device.state).not.toBe(before);
      expect(said.to).toContain(lifeState(device.state));
    } else if (said.kind === 'again') {
      expect(answer).toMatchObject({ ok: true });
      expect(device.state).toBe(before);
    } else {
      const code = said.kind === 'refused' ? 'wrong-state' : 'device-locked';
      expect(answer).toMatchObject({ ok: false, rejection: { code } });
      expect(device.state).toBe(before);
    }
  });

  it('takes again what was done before, without effect, where it refuses anything new', () => {
    for (const state of ['locked', 'withdrawn'] as const) {
      const device = withBatch();
      BROUGHT_TO[state](device);
      const before = device.state;
      expect(device.ask(chunkOf(BATCH, 0, pieces(2)))).toMatchObject({ ok: true });
      expect(device.open(BATCH)).toMatchObject({ ok: true });
      expect(device.state).toBe(before);
    }
  });
});

describe('The way from a state to another', () => {
  it('goes through them in order: enrolled, locked by a deadline, unlocked by its report, withdrawn for good', () => {
    const device = new CoreDevice();
    const seen = [stateName(UNINITIALISED), stateName(device.state)];
    device.enrol({ lockAfterDays: 28 }).refill(100_000n);
    device.time(START_MS);
    seen.push(stateName(device.state));
    device.open(BATCH);
    device.frank(BATCH, 0, pieces(2));
    device.finish(BATCH);
    device.time(START_MS + 28 * DAY_MS);
    seen.push(stateName(device.state));
    const [held] = device.state.unconfirmed;
    device.confirm(held!.sequence, held!.digest);
    seen.push(stateName(device.state));
    BROUGHT_TO.withdrawn(device);
    seen.push(stateName(device.state));
    expect(seen).toEqual(['uninitialised', 'keyed', 'operational', 'locked', 'operational', 'withdrawn']);
    expect(device.try({ kind: 'policy', policy: policyOf(device, 3) })).toMatchObject({
      ok: false,
      rejection: { code: 'device-withdrawn' },
    });
    expect(stateName(device.state)).toBe('withdrawn');
  });
});
