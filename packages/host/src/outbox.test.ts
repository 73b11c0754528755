import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import { Fault } from '@countermark/node-platform/fault';
import { openLog } from '@countermark/node-platform/logs';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { type Digest, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { Answer } from '@countermark/protocol/interfaces/answer';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { type MessageType, unsealedMessage } from '@countermark/protocol/message';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { type RejectionCode, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';
import { Outbox } from './outbox.ts';
import type { PsdClient } from './psd-client.ts';
import type { SessionRelay } from './session-relay.ts';

const DAY_MS = 86_400_000;
const NOW_MS = Date.UTC(2026, 10, 22);
const DEVICE = 'psd_00112233445566aa' as DeviceId;
const LICENSEE = 'lic_test' as LicenseeId;

const roles = { confirming: generateSigningKey(), attesting: generateSigningKey() };
const keys = ({ holder, epoch }: { holder: string; epoch: number }) => {
  const role = holder === 'confirming' || holder === 'attesting' ? roles[holder] : undefined;
  return role === undefined || epoch !== 1
    ? null
    : { publicKey: publicKeyBytes(role.publicKey), authentication: 'signature' as const };
};

function signed<T>(of: MessageType<T>, role: keyof typeof roles, value: T): Uint8Array {
  const message = unsealedMessage(of, 'signature', { holder: role, epoch: 1 }, value);
  return seal(message, signP1363(roles[role].privateKey, toBeAuthenticated(message)));
}

const recordOf = (sequence: number): Uint8Array => Buffer.from(`record ${sequence}`);
const digestOf = (sequence: number): Digest => sha256(recordOf(sequence)) as Digest;

function confirmationOf(sequence: number, digest = digestOf(sequence)): Uint8Array {
  return signed(CONFIRMATION, 'confirming', {
    device: DEVICE,
    licensee: LICENSEE,
    sequence,
    digest,
    confirmedAtMs: NOW_MS,
  });
}

function attestationOf(sequence: number): Uint8Array {
  return signed(ATTESTATION, 'attesting', {
    device: DEVICE,
    licensee: LICENSEE,
    sequence,
    digest: digestOf(sequence),
    recordType: 'batch-statistics',
    authentication: 'signature',
    epoch: 1,
    attestedAtMs: NOW_MS,
  });
}

/** A device that keeps records until it is told that exactly they are confirmed. */
class KeepingPsd implements PsdClient {
  readonly kept = new Map<number, Uint8Array>();
  readonly read: number[] = [];
  readonly deleted: Uint8Array[] = [];
  dead = false;

  call<Request, Answer>(of: Operation<Request, Answer>, request: Request): Promise<Result<Answer>> {
    if (this.dead) return Promise.reject(new Fault('psd-unreachable', 'the PSD does not answer', { retry: 'later' }));
    return Promise.resolve(this.#answer(of.name, request) as Result<Answer>);
  }

  close(): void {
    // Nothing is held.
  }

  #answer(name: string, request: unknown): Result<unknown> {
    if (name === PSD.record.name) {
      const { sequence } = request as { sequence: number };
      this.read.push(sequence);
      const record = this.kept.get(sequence);
      return record === undefined ? refuse(rejection('already-confirmed', { sequence })) : accept({ record });
    }
    if (name === PSD.records.name) {
      const records = [...this.kept].map(([sequence, record]) => ({
        sequence,
        digest: digestOf(sequence),
        bytes: record.length,
      }));
      return accept({ records });
    }
    if (name === PSD.confirm.name) {
      const { confirmation } = request as { confirmation: Uint8Array };
      for (const [sequence, record] of this.kept) {
        const digest = sha256(record) as Digest;
        if (!Buffer.from(confirmation).includes(Buffer.from(digest))) continue;
        this.kept.delete(sequence);
        return accept({ sequence, digest });
      }
      // One that it deleted before is without effect; one that it never had is an alarm.
      if (this.deleted.some((one) => sameBytes(one, confirmation))) return accept({ sequence: 1, digest: NO_DIGEST });
      return refuse(rejection('confirmation-mismatch', { sequence: 0 }));
    }
    throw new Error(`The device has no ${name}.`);
  }
}

let folder: string;
let store: EmbeddedStore;
let journal: Journal;
let psd: KeepingPsd;
let clock: ManualClock;
let submitted: number[][];
let restored: number[];
let reintroduced = 0;
let answer: (sequence: number, bytes: Uint8Array) => Partial<Answer>;
let outboxes: Outbox[];

function openJournal(): void {
  const path = join(folder, 'host.sqlite');
  const opened = openHostStore(path);
  if (!opened.ok) throw new Error(opened.rejection.code);
  store = opened.value;
  journal = new Journal(store);
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'outbox-'));
  openJournal();
  psd = new KeepingPsd();
  clock = new ManualClock(NOW_MS);
  submitted = [];
  restored = [];
  outboxes = [];
  answer = (sequence) => ({
    outcome: 'accepted',
    confirmation: confirmationOf(sequence),
    attestation: attestationOf(sequence),
  });
});
afterEach(async () => {
  for (const outbox of outboxes) await outbox.close();
  store.close();
  rmSync(folder, { recursive: true, force: true });
});

const sequenceOf = (bytes: Uint8Array): number => Number(/\d+/.exec(Buffer.from(bytes).toString())?.[0]);

function makeOutbox(options: { hold?: boolean; session?: SessionRelay | null; onConfirmed?: () => void } = {}): Outbox {
  const { hold = false, session = null, onConfirmed = () => undefined } = options;
  const outbox = new Outbox({
    journal,
    psd,
    server: {
      submit: (records) => {
        submitted.push(records.map(sequenceOf));
        return Promise.resolve(accept(records.map((bytes) => answer(sequenceOf(bytes), bytes) as Answer)));
      },
      restore: (items) => {
        restored.push(...items.map(({ record }) => sequenceOf(record)));
        return Promise.resolve(
          accept(items.map(({ confirmation }) => ({ outcome: 'already-accepted' as const, confirmation }))),
        );
      },
    },
    session,
    hold,
    clock,
    random: () => 0,
    keys,
    log: openLog('test', { write: () => undefined }),
    onConfirmed,
    reintroduce: () => {
      reintroduced += 1;
      return Promise.resolve(accept(null));
    },
  });
  outboxes.push(outbox);
  return outbox;
}

function sealed(from: number, to: number, holdMs: number | null = null): void {
  for (let sequence = from; sequence <= to; sequence++) {
    psd.kept.set(sequence, recordOf(sequence));
    journal.records.add(null, {
      sequence,
      digest: digestOf(sequence),
      id: null,
      bytes: recordOf(sequence),
      sealedMs: clock.nowMs(),
      holdUntilMs: holdMs === null ? null : clock.nowMs() + holdMs,
    });
  }
}

const states = (): string[] => journal.records.all().map(({ state }) => state);
const refusedAs =
  (code: RejectionCode, detail: Record<string, string | number> = {}) =>
  (): Partial<Answer> => ({
    outcome: 'rejected',
    rejection: rejection(code, detail),
  });

describe('records are sent', () => {
  test('in order, at most 256 at once, from the device, and deleted there by their confirmations', async () => {
    sealed(1, 300);
    expect(await makeOutbox().send()).toEqual({ sent: 300, confirmed: 300, trouble: null });
    expect(submitted.map((batch) => batch.length)).toEqual([256, 44]);
    expect(submitted.flat()).toEqual(Array.from({ length: 300 }, (_, i) => i + 1));
    expect(psd.read).toHaveLength(300);
    expect(psd.kept.size).toBe(0);
    expect(new Set(states())).toEqual(new Set(['confirmed']));
    expect(journal.records.all().every(({ attestation }) => attestation !== null)).toBe(true);
  });

  test('by itself as soon as one is sealed', async () => {
    const confirmed = new Promise<void>((resolve) => {
      const outbox = makeOutbox({ onConfirmed: resolve });
      outbox.start();
      sealed(1, 1);
      outbox.kick();
    });
    await confirmed;
    expect(states()).toEqual(['confirmed']);
  });

  test('in a session, by the device itself', async () => {
    sealed(1, 2);
    const asked: unknown[] = [];
    const session = {
      send: (items: readonly { sequence: number; record?: Uint8Array }[]) => {
        asked.push(...items);
        return Promise.resolve(
          accept(items.map(({ sequence }) => ({ sequence, confirmation: confirmationOf(sequence) }))),
        );
      },
    } as unknown as SessionRelay;
    expect(await makeOutbox({ session }).send()).toMatchObject({ confirmed: 2 });
    expect(asked).toEqual([{ sequence: 1 }, { sequence: 2 }]);
    expect(submitted).toEqual([]);
  });
});

describe('a device that gets no session any more', () => {
  const session = {
    send: () => Promise.resolve(refuse(rejection('session-refused', { device: DEVICE, reason: 'it was closed' }))),
  } as unknown as SessionRelay;

  test.each([false, true])('reports without one, in the same attempt (held: %s)', async (hold) => {
    sealed(1, 2);
    expect(await makeOutbox({ session, hold }).send()).toEqual({ sent: 2, confirmed: 2, trouble: null });
    expect(submitted).toEqual([[1, 2]]);
    expect(states()).toEqual(['confirmed', 'confirmed']);
  });

  test('reports the rest without one where its key was revoked meanwhile', async () => {
    sealed(1, 2);
    const first = {
      send: () =>
        Promise.resolve(
          accept([
            { sequence: 1, confirmation: confirmationOf(1) },
            { sequence: 2, rejection: rejection('session-refused', { device: DEVICE, reason: 'it was revoked' }) },
          ]),
        ),
    } as unknown as SessionRelay;
    expect(await makeOutbox({ session: first }).send()).toMatchObject({ confirmed: 1, trouble: 'session-refused' });
    expect(await makeOutbox({ session }).send()).toMatchObject({ confirmed: 1, trouble: null });
    expect(submitted).toEqual([[2]]);
  });
});

describe('a record that the device deleted while the host was killed', () => {
  test.each([false, true])(
    'is confirmed again by the server, without a session too (session: %s)',
    async (inSession) => {
      sealed(1, 2);
      psd.kept.delete(1);
      const stored = confirmationOf(1);
      psd.deleted.push(stored);
      answer = (sequence) => ({
        outcome: 'already-accepted',
        confirmation: sequence === 1 ? stored : confirmationOf(sequence),
      });
      const session = {
        send: (items: readonly { sequence: number }[]) =>
          Promise.resolve(accept(items.map(({ sequence }) => ({ sequence, confirmation: confirmationOf(sequence) })))),
      } as unknown as SessionRelay;
      expect(await makeOutbox(inSession ? { session } : {}).send()).toMatchObject({ confirmed: 2, trouble: null });
      expect(states()).toEqual(['confirmed', 'confirmed']);
      expect(submitted.flat()).toEqual(inSession ? [1] : [1, 2]);
    },
  );
});

describe('a device that was put back', () => {
  test('has what it holds judged in the order of the chain, before later records that it never sealed', async () => {
    sealed(1, 3);
    psd.kept.delete(3);
    answer = () => ({
      outcome: 'rejected',
      rejection: rejection('out-of-order', { device: DEVICE, sequence: 3, expected: 1 }),
    });
    const sent: number[] = [];
    const session = {
      send: (items: readonly { sequence: number }[]) => {
        sent.push(...items.map(({ sequence }) => sequence));
        return Promise.resolve(
          accept(items.map(({ sequence }) => ({ sequence, confirmation: confirmationOf(sequence) }))),
        );
      },
    } as unknown as SessionRelay;
    await makeOutbox({ session }).send();
    expect(sent).toEqual([1, 2]);
    expect(states()).toEqual(['confirmed', 'confirmed', 'waiting']);
    expect(submitted).toEqual([[3]]);
  });
});

describe('what a device that does not answer any more had sealed', () => {
  const session = {
    send: (items: readonly { sequence: number }[]) =>
      Promise.resolve(accept(items.map(({ sequence }) => ({ sequence, confirmation: confirmationOf(sequence) })))),
  } as unknown as SessionRelay;

  test.each([
    ['at once', { hold: false, session: null }],
    ['held, in a session', { hold: true, session }],
  ])('reaches the server from host memory, once it has been waited for (%s)', async (_, options) => {
    sealed(1, 2);
    psd.dead = true;
    const outbox = makeOutbox(options);
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      expect(await outbox.send()).toMatchObject({ confirmed: 0, trouble: 'psd-unreachable' });
    }
    expect(submitted).toEqual([]);
    await outbox.send();
    expect(submitted).toEqual([[1, 2]]);
    // The server has them; their device is told when it answers, if it ever does.
    psd.dead = false;
    expect(await outbox.send()).toMatchObject({ trouble: null });
    expect(states()).toEqual(['confirmed', 'confirmed']);
    expect(psd.kept.size).toBe(0);
  });
});

describe('a hold', () => {
  test('keeps a record for its time, whatever is asked, over a restart; then it goes from host memory', async () => {
    sealed(1, 2, DAY_MS);
    const outbox = makeOutbox({ hold: true });
    outbox.start();
    clock.advance(DAY_MS - 1);
    expect(await outbox.send()).toEqual({ sent: 0, confirmed: 0, trouble: null });
    await outbox.close();
    store.close();
    openJournal();
    expect(await makeOutbox({ hold: true }).send()).toMatchObject({ sent: 0 });
    const confirmed = new Promise<void>((resolve) => makeOutbox({ hold: true, onConfirmed: resolve }).start());
    clock.advance(1);
    await confirmed;
    expect(states()).toEqual(['confirmed', 'confirmed']);
    expect(psd.read).toEqual([]);
    expect(psd.kept.size).toBe(0);
  });

  test('of one record holds back those after it, so that the chain stays in order', async () => {
    sealed(1, 1, DAY_MS);
    sealed(2, 2);
    expect(await makeOutbox({ hold: true }).send()).toMatchObject({ sent: 0 });
  });

  test('in a session has the host supply the record', async () => {
    sealed(1, 1, 0);
    const asked: { record?: Uint8Array }[] = [];
    const session = {
      send: (items: readonly { sequence: number; record?: Uint8Array }[]) => {
        asked.push(...items);
        return Promise.resolve(
          accept(items.map(({ sequence }) => ({ sequence, confirmation: confirmationOf(sequence) }))),
        );
      },
    } as unknown as SessionRelay;
    await makeOutbox({ session, hold: true }).send();
    expect(asked[0]?.record).toEqual(Buffer.from(recordOf(1)));
  });

  test('that a clock ahead of time had set begins anew once the clock is right', async () => {
    clock.set(NOW_MS + 1_000 * DAY_MS);
    sealed(1, 3, DAY_MS);
    clock.set(NOW_MS);
    const outbox = makeOutbox({ hold: true });
    expect(await outbox.send()).toMatchObject({ sent: 0 });
    clock.advance(DAY_MS - 1);
    expect(await outbox.send()).toMatchObject({ sent: 0 });
    clock.advance(1);
    expect(await outbox.send()).toMatchObject({ confirmed: 3 });
  });

  test('does not lose a record that was altered in host memory: the device has its own', async () => {
    sealed(1, 1, 0);
    journal.records.replaceBytes(1, Buffer.from('record 1, altered'));
    answer = (sequence, bytes) =>
      sameBytes(bytes, recordOf(sequence))
        ? { outcome: 'accepted', confirmation: confirmationOf(sequence) }
        : { outcome: 'rejected', rejection: rejection('bad-authenticator', { type: 'record', holder: DEVICE }) };
    const outbox = makeOutbox({ hold: true });
    expect(await outbox.send()).toMatchObject({ confirmed: 0, trouble: 'bad-authenticator' });
    expect(states()).toEqual(['waiting']);
    expect(await outbox.send()).toMatchObject({ confirmed: 1 });
  });
});

describe('an answer decides what is tried', () => {
  test('a server that is down is tried again, and nothing is lost', async () => {
    sealed(1, 1);
    const up = answer;
    answer = () => {
      throw new Fault('server-unreachable', 'it is down', { retry: 'later' });
    };
    const outbox = makeOutbox();
    expect(await outbox.send()).toMatchObject({ sent: 1, confirmed: 0, trouble: 'server-unreachable' });
    expect(journal.records.get(1)).toMatchObject({ state: 'waiting', attempts: 1, reason: 'server-unreachable' });
    answer = up;
    expect(await outbox.send()).toMatchObject({ confirmed: 1 });
    expect(journal.records.get(1)?.reason).toBeNull();
  });

  test('the outbox goes on trying by itself', async () => {
    sealed(1, 1);
    const up = answer;
    let failures = 3;
    answer = (sequence, bytes) => {
      if (failures-- > 0) throw new Fault('server-unreachable', 'it is down', { retry: 'later' });
      return up(sequence, bytes);
    };
    await new Promise<void>((resolve) => makeOutbox({ onConfirmed: resolve }).start());
    expect(submitted).toHaveLength(4);
  });

  test('the outbox goes on by itself when the disk has room again', async () => {
    sealed(1, 1);
    const confirmation = confirmationOf(1);
    answer = () => ({ outcome: 'accepted', confirmation });
    psd.deleted.push(confirmation);
    const settle = journal.records.settleAttempt.bind(journal.records);
    let full = 2;
    journal.records.settleAttempt = (...given) => {
      if (full-- > 0) throw new Fault('store-full', 'no room', { retry: 'later' });
      settle(...given);
    };
    await new Promise<void>((resolve) => makeOutbox({ onConfirmed: resolve }).start());
    expect(full).toBe(-1);
    expect(states()).toEqual(['confirmed']);
  });

  test('bytes that were altered on their way quarantine nothing; a refusal that comes every time does', async () => {
    sealed(1, 1);
    const refused = (): Partial<Answer> => ({
      outcome: 'rejected',
      rejection: rejection('bad-authenticator', { type: 'record', holder: DEVICE }),
    });
    const good = answer;
    answer = refused;
    const outbox = makeOutbox();
    await outbox.send();
    expect(states()).toEqual(['waiting']);
    answer = good;
    await outbox.send();
    expect(states()).toEqual(['confirmed']);
    sealed(2, 2);
    answer = refused;
    for (let times = 1; times <= 7; times += 1) await outbox.send();
    expect(states()).toEqual(['confirmed', 'waiting']);
    await outbox.send();
    expect(states()).toEqual(['confirmed', 'quarantined']);
  });

  test('what was quarantined is sent once more when somebody asks, and what is refused for good comes back', async () => {
    sealed(1, 1);
    const good = answer;
    const outbox = makeOutbox();
    answer = refusedAs('inconsistent');
    await outbox.send();
    expect(await outbox.send()).toMatchObject({ sent: 0 });
    outbox.requeue();
    await outbox.send();
    expect([states(), journal.records.get(1)?.reason]).toEqual([['quarantined'], 'inconsistent']);
    answer = good;
    outbox.requeue();
    expect(await outbox.send()).toMatchObject({ sent: 1, confirmed: 1, trouble: null });
    expect(states()).toEqual(['confirmed']);
    outbox.requeue();
    expect(states()).toEqual(['confirmed']);
  });

  test.each(['fork', 'inconsistent'] as const)('%s is quarantined with its reason', async (code) => {
    sealed(1, 1);
    answer = refusedAs(code);
    await makeOutbox().send();
    expect(journal.records.get(1)).toMatchObject({ state: 'quarantined', reason: code });
    expect(psd.kept.size).toBe(1);
  });

  test('try-again and unknown-device wait', async () => {
    for (const code of ['try-again', 'unknown-device'] as const) {
      sealed(1, 1);
      answer = refusedAs(code);
      expect(await makeOutbox().send()).toMatchObject({ trouble: code });
      expect(states()).toEqual(['waiting']);
    }
  });

  test('unknown-device: a server that lost the certificates gets them again, and then the record', async () => {
    sealed(1, 1);
    const before = answer;
    reintroduced = 0;
    answer = refusedAs('unknown-device');
    const outbox = makeOutbox();
    expect(await outbox.send()).toMatchObject({ confirmed: 0, trouble: 'unknown-device' });
    expect(reintroduced).toBe(1);
    answer = before;
    expect(await outbox.send()).toMatchObject({ confirmed: 1, trouble: null });
    expect(reintroduced).toBe(1);
  });

  test('out-of-order: a server that lost records gets them again from the archive, then the new ones', async () => {
    sealed(1, 3);
    await makeOutbox().send();
    sealed(4, 4);
    let expected = 2;
    answer = (sequence) => {
      if (restored.length >= 2) expected = 4;
      return sequence === expected
        ? { outcome: 'accepted', confirmation: confirmationOf(sequence), attestation: attestationOf(sequence) }
        : { outcome: 'rejected', rejection: rejection('out-of-order', { device: DEVICE, sequence, expected }) };
    };
    const outbox = makeOutbox();
    for (let i = 0; i < 3; i++) await outbox.send();
    expect(restored).toEqual([2, 3]);
    expect(states()).toEqual(['confirmed', 'confirmed', 'confirmed', 'confirmed']);
  });

  test('a confirmation for another digest deletes nothing and is quarantined', async () => {
    sealed(1, 1);
    answer = () => ({ outcome: 'accepted', confirmation: confirmationOf(1, digestOf(99)) });
    expect(await makeOutbox().send()).toMatchObject({ confirmed: 0, trouble: 'confirmation-mismatch' });
    expect(journal.records.get(1)).toMatchObject({ state: 'quarantined', reason: 'confirmation-mismatch' });
    expect(psd.kept.size).toBe(1);
  });

  test('a confirmation that nobody signed is not believed', async () => {
    sealed(1, 1);
    answer = () => {
      const forged = Buffer.from(confirmationOf(1));
      forged[forged.length - 1] = (forged.at(-1) as number) ^ 1;
      return { outcome: 'accepted', confirmation: forged };
    };
    expect(await makeOutbox().send()).toMatchObject({ confirmed: 0 });
    expect(psd.kept.size).toBe(1);
    expect(states()).toEqual(['waiting']);
  });
});
