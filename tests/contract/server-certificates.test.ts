/**
 * A server that was restored from a backup older than its devices' certificates: it is given back what it issued, of every key epoch,
 * and then the records, which stand under several of them.
 */
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { LicenseeId } from '@countermark/protocol/id';
import { archivedCertificatesSchema } from '@countermark/protocol/interfaces/archived-certificates';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { encodeWith } from '@countermark/protocol/schema';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, type Certified, invited, licensee, type Parties, startParties, submit, value } from './server-parties.ts';

const OURS = 'lic_ours';
const THEIRS = 'lic_theirs';
let parties: Parties;

beforeAll(async () => {
  parties = await startParties();
});
afterAll(async () => {
  await parties.stop();
});

describe('A server restored from before an enrolment and a rotation', () => {
  it('takes the certificates of both epochs from the archive, only as they were issued, and then the records', async () => {
    const credential = await licensee(parties, OURS);
    const others = await licensee(parties, THEIRS);
    const [data, backup] = [join(parties.folder, 'server'), join(parties.folder, 'backup')];
    await parties.restart(() => {
      cpSync(data, backup, { recursive: true });
    });

    const device = new SimulatedDevice(OURS as LicenseeId);
    const enrol = async (request: Uint8Array): Promise<Uint8Array> => {
      const text = Buffer.from(request).toString('base64url');
      const answer = await ask(parties, credential, '/v1/devices', {
        licensee: OURS,
        request: text,
        code: await invited(parties, OURS),
      });
      return Uint8Array.from(Buffer.from(answer.json<Certified>().certificate, 'base64url'));
    };
    const first = await enrol(device.enrolmentRequest());
    device.receive(10_000n);
    const before = device.record();
    const second = await enrol(device.rotationRequest());
    const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
    const records = [
      before,
      device.rotation(value(verifyMessage(DEVICE_CERTIFICATE, second, trust)).digest),
      device.record(),
    ];
    const outcomes = async () =>
      (await submit(parties, credential, records)).map((answer) => answer.rejection?.code ?? answer.outcome);
    expect(await outcomes()).toEqual(['accepted', 'accepted', 'accepted']);

    await parties.restart(() => {
      rmSync(data, { recursive: true });
      cpSync(backup, data, { recursive: true });
    });
    const unknown = records.map(() => 'unknown-device');
    expect(await outcomes()).toEqual(unknown);
    const give = async (certificates: readonly Uint8Array[], by = credential, of = OURS) => {
      const archived = encodeWith(archivedCertificatesSchema, { licensee: of as LicenseeId, certificates });
      return (await ask(parties, by, '/v1/archived-certificates', archived)).status;
    };
    const forged = second.map((byte, at) => (at === second.length - 1 ? byte ^ 1 : byte));
    expect(await give([first, forged])).toBe(400);
    expect(await give([first, second], others)).toBe(401);
    expect(await give([first, second], others, THEIRS)).toBe(422);
    expect(await outcomes()).toEqual(unknown);
    // Restored from before the rotation alone: nothing is said against the record that names the certificate which is missing.
    expect(await give([first])).toBe(204);
    expect(await outcomes()).toEqual(['accepted', 'unknown-device', 'unknown-device']);
    expect(await give([first, second])).toBe(204);
    expect(await give([first, second])).toBe(204);
    expect(await outcomes()).toEqual(['already-accepted', 'accepted', 'accepted']);
  });
});
