/**
 * The host's part of a rotation, against a device and a server that fail before or after any of their steps: asked again until it is
 * answered, it is one rotation.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import { Fault } from '@countermark/node-platform/fault';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { type Digest, digestOf, NO_DIGEST } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { NO_FUNDS, ZERO_REGISTERS } from '@countermark/protocol/registers';
import { mills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';
import type { PsdClient } from './psd-client.ts';
import { Rotation } from './rotation.ts';
import type { EnrolledDevice } from './server-client.ts';

const DEVICE = 'psd_00112233445566aa' as DeviceId;

let folder: string;
let store: EmbeddedStore;
let journal: Journal;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rotation-'));
  const opened = openHostStore(join(folder, 'host.sqlite'));
  if (!opened.ok) throw new Error(opened.rejection.code);
  store = opened.value;
  journal = new Journal(store);
});
afterEach(() => {
  store.close();
  rmSync(folder, { recursive: true });
});

/** What happens at a step: it fails before anything was done, its answer is lost, or it is answered. */
type Luck = 'before' | 'after' | 'answered';

/** A device and a server with nothing but what a rotation is about. */
class Parties implements PsdClient {
  epoch = 1;
  pending: number | null = null;
  keysMade = 0;
  batch = false;
  readonly records: Digest[] = [];
  /** By epoch: the request that was certified. */
  readonly certified = new Map<number, string>();
  luck: Luck[] = [];

  call<Request, Answer>(of: Operation<Request, Answer>, request: Request): Promise<Result<Answer>> {
    return this.step(() => this.#answer(of.name, request) as Result<Answer>);
  }

  close(): void {
    // Nothing is held.
  }

  async step<T>(work: () => T): Promise<T> {
    const luck = this.luck.shift() ?? 'answered';
    await Promise.resolve();
    if (luck === 'before') throw new Fault('connection-broken', 'killed before', { retry: 'later' });
    const done = work();
    if (luck === 'after') throw new Fault('connection-broken', 'killed after', { retry: 'later' });
    return done;
  }

  /** The certificate of the keys in the request, the same for the same keys. */
  certify({ request }: { readonly request: Uint8Array }): Promise<Result<EnrolledDevice>> {
    return this.step(() => {
      const text = Buffer.from(request).toString();
      const epoch = Number(text.split(' ')[1]);
      const known = this.certified.get(epoch);
      if (known !== undefined && known !== text) return refuse(rejection('device-enrolled', { device: DEVICE }));
      this.certified.set(epoch, text);
      return accept({ certificate: request, policy: new Uint8Array() });
    });
  }

  status(): DeviceStatus {
    return {
      device: DEVICE,
      state: 'operational',
      epoch: this.epoch,
      authentication: 'signature',
      memory: 'host',
      certified: false,
      registers: ZERO_REGISTERS,
      funds: NO_FUNDS,
      sequence: this.records.length,
      head: this.records.at(-1) ?? NO_DIGEST,
      unconfirmedRecords: this.records.length,
      unconfirmedPostageMills: mills(0n),
      recordCapacity: 10,
      customers: [],
      software: { version: '0', measurement: NO_DIGEST },
      piecesInMemory: 0,
      alarms: 0,
    };
  }

  #answer(name: string, request: unknown): Result<unknown> {
    switch (name) {
      case PSD.status.name:
        return accept(this.status());
      case PSD.rotateBegin.name:
        if (this.pending === null) {
          this.pending = this.epoch + 1;
          this.keysMade += 1;
        }
        return accept({
          epoch: this.pending,
          request: Buffer.from(`keys ${this.pending} ${this.keysMade}`),
          certificateRequest: new Uint8Array(1),
        });
      case PSD.rotate.name: {
        const { certificate } = request as { certificate: Uint8Array };
        const epoch = Number(Buffer.from(certificate).toString().split(' ')[1]);
        if (epoch !== this.epoch) {
          this.epoch = epoch;
          this.pending = null;
          this.records.push(digestOf(new Uint8Array(32).fill(epoch)));
        }
        return accept({ epoch, sequence: this.records.length, digest: this.records.at(-1), record: certificate });
      }
      case PSD.records.name:
        return accept({ records: this.records.map((digest, i) => ({ sequence: i + 1, digest, bytes: 1 })) });
      case PSD.record.name:
        return accept({ record: Buffer.from(`record ${(request as { sequence: number }).sequence}`) });
      default:
        throw new Error(name);
    }
  }
}

/** A host that has just been started, on the same journal. */
function host(parties: Parties): Rotation {
  return new Rotation({
    closing: { journal, psd: parties, clock: new ManualClock(1_795_000_000_000), holdForMs: null },
    link: {
      enrolled: () => parties.step(() => accept(parties.status())),
      certify: (requests) => parties.certify(requests),
      keepCertificate: () => undefined,
    },
    funds: { whileNoneIsPending: (work) => work() },
    outbox: { kick: () => undefined, nextAttemptMs: null },
    archive: { layOutRotations: () => undefined },
  });
}

describe('A rotation that the host carries out', () => {
  const luck = fc.array(fc.constantFrom<Luck>('before', 'after', 'answered', 'answered', 'answered'), {
    maxLength: 40,
  });

  it('comes to its end once, however often and wherever it was cut off', async () => {
    await fc.assert(
      fc.asyncProperty(luck, async (given) => {
        store.database.exec('DELETE FROM record; DELETE FROM kept');
        const parties = new Parties();
        parties.luck = [...given];
        let answer = null;
        while (answer === null) {
          answer = await host(parties)
            .rotate()
            .catch((error: unknown) => {
              if (!(error instanceof Fault)) throw error;
              return null;
            });
        }
        expect(answer).toMatchObject({ ok: true, value: { epoch: 2, record: { sequence: 1, type: 'key-rotation' } } });
        expect([parties.epoch, parties.pending, parties.keysMade, parties.records.length]).toEqual([2, null, 1, 1]);
        expect([...parties.certified.keys()]).toEqual([2]);
        expect(journal.kept('rotation')).toBeUndefined();
        parties.luck = [];
        // Asked once more it is another rotation, unless the epoch is named.
        expect(await host(parties).rotate(2)).toMatchObject({ ok: true, value: { rotated: false, epoch: 2 } });
        expect(await host(parties).rotate()).toMatchObject({
          ok: true,
          value: { rotated: true, resumed: false, epoch: 3 },
        });
      }),
      { numRuns: 100 },
    );
  });

  it('is one for all who ask at the same time', async () => {
    const parties = new Parties();
    const one = host(parties);
    const answers = await Promise.all([one.rotate(), one.rotate(2), one.rotate()]);
    expect(answers.every((answer) => answer === answers[0])).toBe(true);
    expect(parties.epoch).toBe(2);
  });

  it('is not held up by a goal of long ago, in a journal from a backup', async () => {
    const parties = new Parties();
    parties.epoch = 5;
    journal.keep('rotation', Buffer.from('2'));
    expect(await host(parties).rotate()).toMatchObject({
      ok: true,
      value: { rotated: true, resumed: false, epoch: 6 },
    });
  });

  it('goes to the next epoch only', async () => {
    const parties = new Parties();
    for (const to of [0, 3]) expect(await host(parties).rotate(to)).toMatchObject({ rejection: { code: 'usage' } });
    expect(parties.epoch).toBe(1);
  });
});
