/**
 * The end of a device: its funds go back within its last record, after everything before, and nothing comes after it.
 */
import { POLICY } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { balanced } from '@countermark/protocol/registers';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import { verifyRecord } from '@countermark/verify/record';
import { describe, expect, it } from 'vitest';
import { type CoreDevice, readyDevice, SOFTWARE } from '../../testing/core-device.ts';
import { batchNumbered, chunkOf, pieces } from '../../testing/mailing.ts';
import { isZeroised, stateProblems } from './state.ts';
import { deviceStatus } from './status.ts';

function close(device: CoreDevice, over = {}): void {
  const none = { version: 2, maxUnconfirmedPostageMills: mills(0n), closing: true, ...over };
  device.do({
    kind: 'policy',
    policy: device.authority.verified(POLICY, device.authority.policy(device.device, none)),
  });
}

function end(device: CoreDevice) {
  const ended = device.try({ kind: 'end', software: SOFTWARE });
  const [effect] = ended.ok ? ended.value : [];
  if (effect?.kind === 'seal-record') device.records.push(device.sealed(effect.unsealed));
  return ended;
}

const refused = (code: string) => ({ ok: false, rejection: { code } });

function judged(device: CoreDevice) {
  let head: ChainHead = CHAIN_START;
  return device.records.map((bytes) => {
    const record = verifyRecord(bytes, device.recordTrust());
    if (!record.ok) throw new Error(JSON.stringify(record.rejection));
    const verdict = judge(head, record.value, () => null);
    if (verdict.outcome === 'continues') head = verdict.head;
    return verdict.outcome === 'rejected' ? verdict.rejection.code : verdict.outcome;
  });
}

describe.each(['signature', 'mac'] as const)('A device that is closed (%s)', (authentication) => {
  it('closes, reports, gives its funds back in its last record, and has no keys any more when that is confirmed', () => {
    const device = readyDevice({ authentication });
    const received = device.state.funds.receivedMills;
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(2));
    close(device);
    expect(device.open(batchNumbered(2))).toMatchObject({ ok: false });
    expect(device.ask(chunkOf(batchNumbered(1), 2, pieces(1)))).toMatchObject(refused('device-locked'));
    expect(end(device)).toMatchObject(refused('batch-open'));
    device.finish(batchNumbered(1));
    expect(end(device)).toMatchObject(refused('records-unconfirmed'));
    const [record] = device.state.unconfirmed;
    device.confirm(record!.sequence, record!.digest);
    const used = device.state.registers.ascendingMills;
    expect(end(device)).toMatchObject({ ok: true });
    const { registers, funds } = device.state;
    expect(registers.descendingMills).toBe(0n);
    expect(funds.returnedMills).toBe(received - used);
    expect(balanced(registers, funds)).toBe(true);
    expect(stateProblems(device.state)).toEqual([]);
    expect(judged(device)).toEqual(['continues', 'continues']);
    expect(deviceStatus(device.state, SOFTWARE)).toMatchObject({ state: 'withdrawn', closing: true, finalSequence: 2 });
    expect(isZeroised(device.state)).toBe(false);
    const before = device.state;
    expect(end(device)).toEqual({ ok: true, value: [] });
    expect(device.state).toBe(before);
    const [statement] = device.state.unconfirmed;
    expect(device.confirm(statement!.sequence, statement!.digest)).toMatchObject({
      ok: true,
      value: [{ kind: 'delete-record', sequence: 2 }, { kind: 'zeroise' }],
    });
    expect(deviceStatus(device.state, SOFTWARE)).toMatchObject({ state: 'withdrawn', zeroised: true });
  });

  it('makes a statement only under a policy that closes it, and with no funds on their way', () => {
    const device = readyDevice({ authentication });
    expect(end(device)).toMatchObject(refused('wrong-state'));
    device.do({ kind: 'request-funds', amountMills: mills(1_000n) });
    close(device, { closing: undefined });
    expect(end(device)).toMatchObject(refused('wrong-state'));
    close(device, { version: 3 });
    expect(end(device)).toMatchObject(refused('wrong-state'));
    expect(device.state.finalSequence).toBeNull();
    expect(device.state.registers.descendingMills).toBeGreaterThan(0n);
  });

  it('whose copy franks on is seen: a fork at the statement, and nothing continues the chain after it', () => {
    const device = readyDevice({ authentication });
    const copy = device.state;
    close(device);
    end(device);
    expect(judged(device)).toEqual(['continues']);
    const verified = verifyRecord(device.records[0]!, device.recordTrust());
    if (!verified.ok) throw new Error('no record');
    const after = judge(CHAIN_START, verified.value, () => null);
    if (after.outcome !== 'continues') throw new Error('no head');
    // The store was put back, and the copy reports in the statement's place; or somebody with its keys goes on after it.
    device.state = copy;
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(1));
    const instead = device.finish(batchNumbered(1));
    expect(judge(after.head, instead, () => verified.value.verified.digest)).toMatchObject({
      rejection: { code: 'fork' },
    });
    device.state = { ...copy, sequence: 1, head: after.head.digest };
    device.open(batchNumbered(2));
    const onwards = device.finish(batchNumbered(2));
    expect(judge(after.head, onwards, () => null)).toMatchObject({ rejection: { code: 'chain-ended' } });
  });
});
