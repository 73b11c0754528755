/** A rotation in the core: one chain under changing keys, with room of its own, whatever happens in between. */
import { digestText, type Digest } from '@countermark/protocol/digest';
import type { KeyRotation } from '@countermark/protocol/messages/key-rotation';
import { mills } from '@countermark/protocol/money';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import type { VerifiedRecord } from '@countermark/verify/record';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { START_MS } from '../../testing/authority.ts';
import { readyDevice } from '../../testing/core-device.ts';
import { batchNumbered, pieces } from '../../testing/mailing.ts';
import { stateProblems } from './state.ts';

const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function value<T>(result: { ok: true; value: T } | { ok: false; rejection: unknown }): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

/** The judgement of server and authority over one device's records, in their order. */
class Chain {
  head: ChainHead = CHAIN_START;
  readonly #digests = new Map<number, Digest>();

  judged(record: VerifiedRecord) {
    return judge(this.head, record, (sequence) => this.#digests.get(sequence) ?? null);
  }

  accept(record: VerifiedRecord): void {
    const verdict = this.judged(record);
    expect(verdict).toMatchObject({ outcome: 'continues' });
    if (verdict.outcome === 'continues') this.head = verdict.head;
    this.#digests.set(this.head.sequence, this.head.digest);
  }
}

describe('a rotation', () => {
  it.each(['signature', 'mac'] as const)(
    'is a record under the old key that names the new certificate; what follows is under the new one (%s)',
    (authentication) => {
      const device = readyDevice({ authentication });
      const chain = new Chain();
      device.open(batchNumbered(1));
      device.frank(batchNumbered(1), 0, pieces(3));
      chain.accept(device.finish(batchNumbered(1)));
      const { registers, funds } = device.state;
      value(device.beginRotation());
      const certificate = device.nextCertificate();
      const rotation = value(device.rotate(certificate));
      expect(rotation.verified.envelope).toMatchObject({ authentication, key: { epoch: 1 } });
      expect(rotation.verified.message).toMatchObject({
        sequence: 2,
        newEpoch: 2,
        registers,
        funds,
      });
      const { newCertificate } = rotation.verified.message as KeyRotation;
      expect(digestText(newCertificate)).toBe(digestText(certificate.digest));
      chain.accept(rotation);
      expect(device.state).toMatchObject({ registers, funds, sequence: 2, certificate, nextIdentity: null });
      device.open(batchNumbered(2));
      device.frank(batchNumbered(2), 0, pieces(2));
      const after = device.finish(batchNumbered(2));
      expect(after.verified.envelope.key.epoch).toBe(2);
      expect(after.verified.message).toMatchObject({ observed: { epoch: 2 } });
      chain.accept(after);
    },
  );

  it('with the certificate that is in use again changes nothing', () => {
    const device = readyDevice();
    value(device.beginRotation());
    const certificate = device.nextCertificate();
    value(device.rotate(certificate));
    const { state } = device;
    expect(device.try({ kind: 'rotate', certificate })).toEqual({ ok: true, value: [] });
    expect(device.state).toBe(state);
  });

  it('keeps the keys that it began with, however often it is begun', () => {
    const device = readyDevice();
    value(device.beginRotation());
    const { nextIdentity } = device.state;
    device.secrets.delete(2);
    value(device.beginRotation());
    expect(device.state.nextIdentity).toBe(nextIdentity);
  });

  it('takes only a certificate of the keys that wait, for this device and licensee', () => {
    const device = readyDevice();
    expect(code(device.try({ kind: 'rotate', certificate: readyDevice().certificates[0]! }))).toBe('wrong-state');
    value(device.beginRotation());
    const waiting = device.nextCertificate().message;
    for (const [over, refusal] of [
      [{ epoch: 3 }, 'enrolment-mismatch'],
      [{ licensee: 'lic_other' as typeof waiting.licensee }, 'enrolment-mismatch'],
      [{ authentication: 'mac' as const }, 'enrolment-mismatch'],
      [{ memory: 'psd' as const }, 'enrolment-mismatch'],
      [{ publicKey: waiting.agreementKey }, 'enrolment-mismatch'],
      [{ agreementKey: waiting.publicKey }, 'enrolment-mismatch'],
      [{ device: readyDevice().device }, 'wrong-device'],
    ] as const) {
      expect(code(device.try({ kind: 'rotate', certificate: device.nextCertificate(over) }))).toBe(refusal);
    }
    expect(device.state.sequence).toBe(0);
    expect(code(device.rotate(device.nextCertificate()))).toBe('ok');
  });

  it('waits for the batch that is open, for funds that were asked for, and for the rotation before it', () => {
    const device = readyDevice();
    device.open(batchNumbered(1));
    expect(code(device.beginRotation())).toBe('batch-open');
    device.finish(batchNumbered(1));
    value(device.beginRotation());
    device.open(batchNumbered(2));
    expect(code(device.try({ kind: 'rotate', certificate: device.nextCertificate() }))).toBe('batch-open');
    device.finish(batchNumbered(2));
    device.do({ kind: 'request-funds', amountMills: mills(1n) });
    expect(device.try({ kind: 'rotate', certificate: device.nextCertificate() })).toMatchObject({
      rejection: { code: 'wrong-state', detail: { needs: 'that no funds request is pending' } },
    });
  });

  it('has room of its own: it fits where no batch does any more, and leaves none less for batches; one at a time', () => {
    const device = readyDevice({ recordCapacity: 2, policy: { maxUnconfirmedBatches: 2 } });
    for (const n of [1, 2]) {
      device.open(batchNumbered(n));
      device.finish(batchNumbered(n));
    }
    expect(code(device.open(batchNumbered(3)))).toBe('device-locked');
    value(device.beginRotation());
    const rotation = value(device.rotate(device.nextCertificate()));
    expect(device.beginRotation()).toMatchObject({
      rejection: { code: 'rotation-unconfirmed', detail: { sequence: 3 } },
    });
    const [first] = device.state.unconfirmed;
    value(device.confirm(1, first!.digest));
    expect(code(device.open(batchNumbered(3)))).toBe('ok');
    device.finish(batchNumbered(3));
    expect(device.confirm(3, rotation.verified.digest)).toMatchObject({
      value: [{ kind: 'delete-record', sequence: 3, batch: null }, { kind: 'forget-keys' }],
    });
    expect(code(device.beginRotation())).toBe('ok');
  });

  it('starts its reporting deadline like any record', () => {
    const device = readyDevice({ policy: { warnAfterDays: 1, lockAfterDays: 2 } });
    value(device.beginRotation());
    value(device.rotate(device.nextCertificate()));
    value(device.time(START_MS + 2 * 86_400_000));
    expect(code(device.open(batchNumbered(1)))).toBe('device-locked');
    value(device.confirm(1, device.state.head));
    expect(code(device.open(batchNumbered(1)))).toBe('ok');
  });

  it('makes the old key worthless: what comes under it is refused by the chain', () => {
    const device = readyDevice();
    const chain = new Chain();
    const { state: before } = device;
    value(device.beginRotation());
    chain.accept(value(device.rotate(device.nextCertificate())));
    // A store that was copied before goes on under the old key, from the head that the rotation has made.
    device.state = { ...before, sequence: chain.head.sequence, head: chain.head.digest };
    device.open(batchNumbered(1));
    expect(chain.judged(device.finish(batchNumbered(1)))).toMatchObject({
      outcome: 'rejected',
      rejection: { code: 'superseded-key', detail: { epoch: 1, current: 2 } },
    });
  });

  const happening = fc.oneof(
    fc.record({ what: fc.constant('frank' as const), count: fc.integer({ min: 1, max: 4 }) }),
    fc.record({ what: fc.constant('finish' as const) }),
    fc.record({ what: fc.constant('begin' as const) }),
    fc.record({ what: fc.constant('rotate' as const) }),
    fc.record({ what: fc.constant('refill' as const), amount: fc.bigInt({ min: 0n, max: 5_000n }) }),
    fc.record({ what: fc.constant('confirm' as const), which: fc.nat(9) }),
  );

  it('between whatever else happens leaves one chain, with the registers as they stood', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('host' as const, 'psd' as const),
        fc.constantFrom('signature' as const, 'mac' as const),
        fc.array(happening, { maxLength: 40 }),
        (memory, authentication, happenings) => {
          const device = readyDevice({ memory, authentication, recordCapacity: 3 });
          const chain = new Chain();
          let batches = 0;
          for (const event of happenings) {
            const { batch, registers, funds, identity } = device.state;
            switch (event.what) {
              case 'frank': {
                if (batch === null && !device.open(batchNumbered(batches + 1)).ok) break;
                if (batch === null) batches += 1;
                const chunks = device.journal.get(batchNumbered(batches)) ?? [];
                const next = chunks.reduce((sum, { chunk }) => sum + chunk.salts.length / 16, 0);
                device.frank(batchNumbered(batches), next, pieces(event.count));
                break;
              }
              case 'finish':
                if (batch !== null) chain.accept(device.finish(batchNumbered(batches)));
                break;
              case 'begin':
                device.beginRotation();
                break;
              case 'rotate': {
                if (device.state.nextIdentity === null) break;
                const rotated = device.rotate(device.nextCertificate());
                if (rotated.ok) chain.accept(rotated.value);
                else expect(device.state.identity).toBe(identity);
                expect(device.state).toMatchObject({ registers, funds });
                break;
              }
              case 'refill':
                device.refill(event.amount);
                break;
              case 'confirm': {
                const { unconfirmed } = device.state;
                const one = unconfirmed[event.which % Math.max(1, unconfirmed.length)];
                if (one !== undefined) value(device.confirm(one.sequence, one.digest));
                break;
              }
            }
            expect(stateProblems(device.state)).toEqual([]);
            expect(device.state.unconfirmed.length).toBeLessThanOrEqual(4);
          }
          expect(chain.head.sequence).toBe(device.state.sequence);
          if (chain.head.sequence > 0) {
            expect(digestText(chain.head.digest)).toBe(digestText(device.state.head));
            expect(chain.head.epoch).toBe(device.state.identity?.epoch);
          }
        },
      ),
      { numRuns: 60 },
    );
  });
});
