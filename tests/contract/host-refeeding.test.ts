/**
 * What a host that lost its store takes back from the server: only what is authentic, to the last bit.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deviceKeys } from '@countermark/host/device-trust';
import { Journal } from '@countermark/host/journal';
import { openHostStore } from '@countermark/host/journal-schema';
import { Refeeding, type RefeedingOptions } from '@countermark/host/refeeding';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Roles, TestDevice } from './authority-evidence.ts';
import { valueOf } from './authority-process.ts';

type Part = 'record' | 'attestation' | 'confirmation' | 'certificate';

const roles = new Roles();
const keys = trustedKeys(roles.bundle);
let folder: string;
let journal: Journal;
let close: () => void;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'refeeding-'));
  const store = valueOf(openHostStore(join(folder, 'host.sqlite')));
  journal = new Journal(store);
  close = () => {
    store.close();
  };
});
afterEach(() => {
  close();
  rmSync(folder, { recursive: true });
});

/** The server's parts of one record of a device that rotated its keys before; `alter` does what a line may do to them. */
function served(authentication: 'signature' | 'mac', alter: (part: Part, bytes: Uint8Array) => Uint8Array | null) {
  const device = new TestDevice(roles, undefined, authentication);
  const one = device.frank([{ level: '5-digit', pieces: 3 }]);
  const { licensee } = one.statistics;
  const parts: Record<Part, Uint8Array> = {
    record: one.record,
    attestation: one.attestation,
    certificate: device.certificate,
    confirmation: roles.sign(CONFIRMATION, {
      device: device.id,
      licensee,
      sequence: 1,
      digest: one.digest,
      confirmedAtMs: 5,
    }),
  };
  const recordPart = async (_: string, sequence: number, part: Part) => {
    const bytes = sequence === 1 ? alter(part, parts[part]) : null;
    return bytes === null ? refuse(rejection('unknown-record', { sequence })) : accept(bytes);
  };
  const refeeding = new Refeeding({
    journal,
    server: { recordPart },
    keys,
    clock: { nowMs: () => 7 },
  } as unknown as RefeedingOptions);
  return { one, device, take: () => refeeding.takeBack({ device: device.id, sequence: 1 } as DeviceStatus) };
}

const flipped = (bytes: Uint8Array): Uint8Array => {
  const copy = Uint8Array.from(bytes);
  copy[copy.length - 3]! ^= 1;
  return copy;
};

describe.each(['signature', 'mac'] as const)('A record authenticated by %s', (authentication) => {
  it('is taken back with its certificate, and can be checked by it from then on', async () => {
    const { one, device, take } = served(authentication, (_, bytes) => bytes);
    expect(await take()).toEqual(accept(null));
    expect(journal.records.get(1)).toMatchObject({ state: 'confirmed', digest: Buffer.from(one.digest) });
    expect(journal.certificates().map(({ bytes }) => Buffer.from(bytes))).toEqual([Buffer.from(device.certificate)]);
    expect(deviceKeys(journal, keys)({ holder: device.id, epoch: 1 })).toMatchObject({ authentication });
  });

  it.each(['attestation', 'confirmation', 'certificate'] as const)(
    'is not taken with an altered %s',
    async (altered) => {
      const { take } = served(authentication, (part, bytes) => (part === altered ? flipped(bytes) : bytes));
      expect(await take()).toMatchObject({ ok: false });
      expect(journal.records.get(1)).toBeUndefined();
    },
  );

  it('waits where the server has not got its certificate back itself', async () => {
    const { take } = served(authentication, (part, bytes) => (part === 'certificate' ? null : bytes));
    expect(await take()).toEqual(accept(null));
    expect(journal.records.get(1)).toBeUndefined();
  });
});

it('A signature that was altered on its way would have made the store one that contradicts itself: it is not taken', async () => {
  const { take } = served('signature', (part, bytes) => (part === 'record' ? flipped(bytes) : bytes));
  expect(await take()).toMatchObject({ ok: false, rejection: { code: 'bad-authenticator' } });
  expect(journal.records.get(1)).toBeUndefined();
});
