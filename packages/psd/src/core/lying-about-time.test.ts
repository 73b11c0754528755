/**
 * What an owner gains by lying about time: a host that sets its clock back or forward, keeps signed times from the device, gives it old
 * ones again or those of other devices.
 *
 * The device reads no clock, so that a host's clock is nothing to it (its functions have no such input). What is left is which signed times it is given, and
 * when. By that an owner moves deadlines out, and never back; and franks at most until the hard limits, which no time moves.
 */
import type { DeviceId } from '@countermark/protocol/id';
import { SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { START_MS } from '../../testing/authority.ts';
import { type CoreDevice, readyDevice, SOFTWARE } from '../../testing/core-device.ts';
import { batchNumbered, chunkOf, pieces } from '../../testing/mailing.ts';
import { deadlines, lockOf, stateName } from './policy.ts';
import { unconfirmedBatches, unconfirmedPostageMills } from './state.ts';
import { deviceStatus } from './status.ts';

const DAY_MS = 86_400_000;
const LOCK_DAYS = 28;
const UNCONFIRMED_BATCHES = 3;
const UNCONFIRMED_MILLS = 12_000n;
/** Of the pieces that the tests frank. */
const PIECE_MILLS = 740n;

function device(): CoreDevice {
  return readyDevice({
    policy: {
      warnAfterDays: 21,
      lockAfterDays: LOCK_DAYS,
      maxUnconfirmedBatches: UNCONFIRMED_BATCHES,
      maxUnconfirmedPostageMills: mills(UNCONFIRMED_MILLS),
    },
  });
}

/** What a lying owner may do: `give` the n-th time that was ever signed, old or new; `pass`: days pass, and nobody tells the device. */
const MOVES = fc.array(
  fc.oneof(
    fc.record({ does: fc.constant('give' as const), much: fc.nat(20) }),
    fc.record({ does: fc.constant('pass' as const), much: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ does: fc.constant('frank' as const), much: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ does: fc.constantFrom('seal' as const, 'report' as const), much: fc.constant(0) }),
  ),
  { maxLength: 40 },
);

describe('An owner who lies about time', () => {
  it('never moves it back, lifts no lock by it, and franks no further than the hard limits', () => {
    fc.assert(
      fc.property(MOVES, (moves) => {
        const owned = device();
        const signed = [START_MS];
        let nowMs = START_MS;
        let batch = 0;
        for (const { does, much } of moves) {
          const before = owned.state;
          const locked = lockOf(before);
          if (does === 'pass') {
            nowMs += much * DAY_MS;
            signed.push(nowMs);
          } else if (does === 'give') {
            owned.time(signed[much % signed.length] as number);
          } else if (does === 'frank') {
            if (before.batch === null && owned.open(batchNumbered(batch + 1)).ok) batch += 1;
            const { batch: open } = owned.state;
            const franked =
              open !== null &&
              owned.ask(
                chunkOf(open.declaration.batch, owned.state.registers.pieces - open.opened.pieces, pieces(much)),
              ).ok;
            if (locked !== null) expect([franked, owned.state.registers]).toEqual([false, before.registers]);
          } else if (does === 'seal') {
            if (before.batch !== null) owned.finish(before.batch.declaration.batch);
          } else {
            const [oldest] = before.unconfirmed;
            if (oldest !== undefined) owned.confirm(oldest.sequence, oldest.digest);
          }
          const after = owned.state;
          expect(after.signedTimeMs ?? 0).toBeGreaterThanOrEqual(before.signedTimeMs ?? 0);
          // Whoever is locked is so until it reports, whatever times it is given.
          if (locked !== null && does !== 'report') expect(lockOf(after)).not.toBeNull();
          expect(unconfirmedPostageMills(after)).toBeLessThanOrEqual(UNCONFIRMED_MILLS);
          expect(unconfirmedBatches(after)).toBeLessThanOrEqual(UNCONFIRMED_BATCHES);
        }
      }),
      { numRuns: 150 },
    );
  });

  it('withholds all time, for years: and reaches the hard limit to the piece, and nothing beyond it', () => {
    const owned = device();
    owned.open(batchNumbered(1), { expectedPieces: 100 });
    let franked = 0;
    while (owned.ask(chunkOf(batchNumbered(1), franked, pieces(1))).ok) franked += 1;
    expect(BigInt(franked)).toBe(UNCONFIRMED_MILLS / PIECE_MILLS);
    expect(owned.ask(chunkOf(batchNumbered(1), franked, pieces(1)))).toMatchObject({
      rejection: { code: 'device-locked', detail: { reason: /mills of postage would not be confirmed/ } },
    });
    // No day has passed for the device; its status says which time it knows.
    expect(deviceStatus(owned.state, SOFTWARE)).toMatchObject({ signedTimeMs: START_MS, state: 'operational' });
    owned.finish(batchNumbered(1));
    expect(owned.open(batchNumbered(2))).toMatchObject({ ok: true });
    expect(owned.ask(chunkOf(batchNumbered(2), 0, pieces(1)))).toMatchObject({ ok: false });
  });

  it('gains no more by old times, nor by those of another device, than by none', () => {
    const owned = device();
    owned.open(batchNumbered(1));
    owned.frank(batchNumbered(1), 0, pieces(1));
    owned.finish(batchNumbered(1));
    owned.time(START_MS + LOCK_DAYS * DAY_MS);
    expect(stateName(owned.state)).toBe('locked');
    const due = deadlines(owned.state);
    for (const timeMs of [START_MS, START_MS + LOCK_DAYS * DAY_MS - 1]) {
      expect(owned.time(timeMs)).toMatchObject({ ok: false, rejection: { code: 'stale-time' } });
    }
    const others = owned.authority.verified(SIGNED_TIME, {
      device: 'psd_ffffffffffffffff' as DeviceId,
      timeMs: START_MS + 400 * DAY_MS,
    });
    expect(owned.try({ kind: 'time', time: others })).toMatchObject({ ok: false, rejection: { code: 'wrong-device' } });
    expect([stateName(owned.state), deadlines(owned.state)]).toEqual(['locked', due]);
  });

  it('who has the device see time far ahead only locks it: it cannot be taken back, and reporting still lifts it', () => {
    const owned = device();
    owned.open(batchNumbered(1));
    owned.frank(batchNumbered(1), 0, pieces(1));
    owned.finish(batchNumbered(1));
    owned.time(START_MS + 10_000 * DAY_MS);
    expect(owned.open(batchNumbered(2))).toMatchObject({ rejection: { code: 'device-locked' } });
    expect(owned.time(START_MS + DAY_MS)).toMatchObject({ ok: false });
    const [held] = owned.state.unconfirmed;
    owned.confirm(held!.sequence, held!.digest);
    expect(owned.open(batchNumbered(2))).toMatchObject({ ok: true });
  });

  it('who has it see such a time while a batch is open is told to close it: nothing waits that could be sent', () => {
    const owned = device();
    owned.open(batchNumbered(1));
    owned.frank(batchNumbered(1), 0, pieces(1));
    owned.time(START_MS + 10_000 * DAY_MS);
    expect(owned.ask(chunkOf(batchNumbered(1), 1, pieces(1)))).toMatchObject({
      rejection: { code: 'device-locked', detail: { lifts: expect.stringMatching(/^Close the open batch/) as string } },
    });
    owned.finish(batchNumbered(1));
    const [held] = owned.state.unconfirmed;
    owned.confirm(held!.sequence, held!.digest);
    expect(owned.open(batchNumbered(2))).toMatchObject({ ok: true });
  });
});
