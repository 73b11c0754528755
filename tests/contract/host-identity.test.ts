/**
 * What a host takes for its device's X.509 certificate: nothing that the device's own certificate does not vouch for.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DeviceLink } from '@countermark/host/device-link';
import { Journal } from '@countermark/host/journal';
import { openHostStore } from '@countermark/host/journal-schema';
import type { PsdClient } from '@countermark/host/psd-client';
import type { ServerClient } from '@countermark/host/server-client';
import type { LicenseeId } from '@countermark/protocol/id';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { accept } from '@countermark/protocol/result';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Roles, TestDevice } from './authority-evidence.ts';
import { valueOf } from './authority-process.ts';

let folder: string;
let journal: Journal;
let close: () => void;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'identity-'));
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

/** A device that is enrolled, and asks for its certificate as often as it is told to. */
function enrolledPsd({ id }: TestDevice): PsdClient {
  const status = { device: id, epoch: 1, state: 'operational', sequence: 0, registers: { pieces: 0 } };
  const requests = { request: new Uint8Array([1]), certificateRequest: new Uint8Array([1]) };
  return {
    call: async ({ name }: { readonly name: string }) => accept(name === 'status' ? status : requests),
  } as unknown as PsdClient;
}

it.each([
  ['is no certificate', new Uint8Array([0x30, 3, 2, 1, 5])],
  ['is empty', new Uint8Array(0)],
])('What %s is not kept, and the answer says why', async (_, answered) => {
  const roles = new Roles();
  const device = new TestDevice(roles);
  journal.keep('certificate', device.certificate);
  const psd = { call: async () => accept({ request: new Uint8Array([1]) }) } as unknown as PsdClient;
  const server = {
    identify: async () => accept({ certificate: answered, authority: answered }),
  } as unknown as ServerClient;
  const link = new DeviceLink(psd, server, journal, 'lic_test-bureau' as LicenseeId, trustedKeys(roles.bundle));
  const status = { device: device.id, epoch: 1, state: 'operational' } as DeviceStatus;
  expect(await link.identity(status)).toMatchObject({
    ok: false,
    rejection: {
      code: 'identity-refused',
      detail: { device: device.id, reason: expect.stringContaining('cannot be read') },
    },
  });
  expect(journal.kept('identity')).toBeUndefined();
});

it('A device certificate that was altered on the way is not kept, and is asked for again', async () => {
  const roles = new Roles();
  const device = new TestDevice(roles);
  const altered = device.certificate.slice();
  altered.set([(altered.at(-1) ?? 0) ^ 1], altered.length - 1);
  const answers = [altered, device.certificate];
  const psd = enrolledPsd(device);
  const server = {
    enrol: async () => accept({ certificate: answers.shift(), policy: new Uint8Array([1]) }),
  } as unknown as ServerClient;
  const link = new DeviceLink(psd, server, journal, 'lic_test-bureau' as LicenseeId, trustedKeys(roles.bundle));
  await link.enrolled();
  expect(journal.kept('certificate')).toBeUndefined();
  await link.enrolled();
  expect(Buffer.from(journal.kept('certificate') ?? []).equals(Buffer.from(device.certificate))).toBe(true);
  expect(answers).toEqual([]);
});

it('A host put back to before a rotation gives the server the certificate that it gets for the keys in use, and those it kept', async () => {
  const roles = new Roles();
  const device = new TestDevice(roles);
  const answers = [device.certificate];
  const given: (readonly Uint8Array[])[] = [];
  const psd = enrolledPsd(device);
  const server = {
    enrol: async () => accept({ certificate: answers.shift(), policy: new Uint8Array([1]) }),
    restoreCertificates: async (_: unknown, certificates: readonly Uint8Array[]) => {
      given.push(certificates);
      return accept({});
    },
  } as unknown as ServerClient;
  const link = new DeviceLink(psd, server, journal, 'lic_test-bureau' as LicenseeId, trustedKeys(roles.bundle));
  expect((await link.reintroduce()).ok).toBe(true);
  expect(given).toHaveLength(1);
  expect(given[0]?.map((bytes) => Buffer.from(bytes).toString('hex'))).toEqual([
    Buffer.from(device.certificate).toString('hex'),
  ]);
  expect(answers).toEqual([]);
});
