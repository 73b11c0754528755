/**
 * What a turn of settlement takes up by itself.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fault } from '@countermark/node-platform/fault';
import { openLog } from '@countermark/node-platform/logs';
import type { Digest } from '@countermark/protocol/digest';
import type { LicenseeId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Journal } from './journal.ts';
import { openHostStore } from './journal-schema.ts';
import { SettlementFollower, type SettlementOptions } from './settlement.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'settlement-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

test('A server that does not know the device is given its certificates, whatever it is asked for first', async () => {
  const store = openHostStore(join(folder, 'host.sqlite'));
  if (!store.ok) throw new Error(store.rejection.code);
  await new Promise<void>((resolve) => {
    const follower: SettlementFollower = new SettlementFollower({
      journal: new Journal(store.value),
      psd: { call: async () => accept({ device: 'psd_0123456789abcdef', sequence: 1 }), close: () => undefined },
      link: {
        reintroduce: async () => {
          void follower.close().then(resolve);
          return accept(null);
        },
      },
      funds: { noteTaken: () => undefined },
      refeeding: { takeBack: async () => refuse(rejection('unknown-device', { device: 'psd_0123456789abcdef' })) },
      random: () => 0,
      log: openLog('test', { write: () => undefined }),
    } as unknown as SettlementOptions);
    follower.kick();
  });
  store.value.close();
});

test('A host whose device does not answer any more feeds a restored server all the same', async () => {
  const store = openHostStore(join(folder, 'host.sqlite'));
  if (!store.ok) throw new Error(store.rejection.code);
  const journal = new Journal(store.value);
  const record = { digest: new Uint8Array(32) as Digest, id: null, bytes: new Uint8Array([1]), atMs: 1 };
  for (const sequence of [1, 2, 3]) {
    journal.records.addConfirmed({
      ...record,
      sequence,
      confirmation: new Uint8Array([2]),
      attestation: new Uint8Array([3]),
    });
  }
  const fedAfter = await new Promise<number>((resolve) => {
    const follower: SettlementFollower = new SettlementFollower({
      journal,
      psd: {
        call: async () => {
          throw new Fault('peer-not-running', 'the PSD does not run', { retry: 'later' });
        },
        close: () => undefined,
      },
      server: { settlement: async () => accept({ logged: 1 }) },
      link: { lastKnown: () => 'psd_0123456789abcdef' },
      refeeding: {
        giveBack: async (logged: number) => {
          void follower.close().then(() => {
            resolve(logged);
          });
          return accept(null);
        },
      },
      random: () => 0,
      log: openLog('test', { write: () => undefined }),
    } as unknown as SettlementOptions);
    follower.kick();
  });
  expect(fedAfter).toBe(1);
  store.value.close();
});

/** One turn of a follower between a device and a server that say this, until nothing is outstanding. */
async function settled(
  status: object,
  { policyDigest = '' }: { readonly policyDigest?: string },
  others: object,
): Promise<void> {
  const store = openHostStore(join(folder, 'host.sqlite'));
  if (!store.ok) throw new Error(store.rejection.code);
  const follower = await new Promise<SettlementFollower>((resolve) => {
    const one: SettlementFollower = new SettlementFollower({
      journal: new Journal(store.value),
      psd: { call: async () => accept({ device: 'psd_0123456789abcdef', ...status }), close: () => undefined },
      server: {
        settlement: async () =>
          accept({
            logged: 0,
            delivered: 0,
            evaluated: 0,
            grantsCursor: 0,
            drawableMills: '0',
            suspended: false,
            policyVersion: 0,
            policyDigest,
          }),
        grants: async () => accept([]),
      },
      link: { refreshTime: async () => accept(null) },
      funds: { noteTaken: () => undefined },
      refeeding: { takeBack: async () => accept(null) },
      licensee: 'lic_one' as LicenseeId,
      keys: () => null,
      random: () => 0,
      log: openLog('test', { write: () => undefined }),
      goOnEnding: async () => accept(true),
      adopt: async () => undefined,
      onNews: () => {
        resolve(one);
      },
      ...others,
    } as unknown as SettlementOptions);
    one.kick();
  });
  await follower.close();
  store.value.close();
}

test('A device whose enrolment was interrupted is enrolled by itself, where the server knows it', async () => {
  let enrolled = 0;
  const status = { device: 'psd_0123456789abcdef', sequence: 0, state: 'keyed' };
  const link = {
    refreshTime: async () => accept(null),
    enrolled: async () => {
      enrolled += 1;
      status.state = 'operational';
      return accept(status);
    },
  };
  const psd = { call: async () => accept(status), close: () => undefined };
  await settled({}, {}, { link, psd });
  expect(enrolled).toBe(1);
});

test('Records that only the device has are taken up, also where the start could not', async () => {
  let adopted = 0;
  const adopt = async () => {
    adopted += 1;
  };
  await settled({ sequence: 3 }, {}, { adopt });
  expect(adopted).toBe(1);
});

test.each([
  ['another policy than the device, older, newer or of the same version', '02', true],
  ['the same', '01', false],
])('A server that has %s is asked for it', async (_, byte, asked) => {
  let refreshed = 0;
  const link = {
    refreshTime: async () => accept(null),
    refreshPolicy: async () => {
      refreshed += 1;
      return accept(null);
    },
  };
  const policyDigest = new Uint8Array(32).fill(1);
  await settled({ sequence: 0, policyVersion: 3, policyDigest }, { policyDigest: byte.repeat(32) }, { link });
  expect(refreshed > 0).toBe(asked);
});
