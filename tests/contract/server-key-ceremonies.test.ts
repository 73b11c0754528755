/** Key ceremonies: who can have a role's key rotated, what is lost where something ends in between, and who believes the new key. */
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { CERTIFIED_ROLES } from '@countermark/protocol/message';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import type { KeyCeremony } from '@countermark/server/key-ceremonies';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { parseTrustBundle, trustedKeys, type TrustBundle } from '@countermark/verify/trust-bundle';
import { type Trust, verifyMessage } from '@countermark/verify/verified';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  ask,
  enrolled,
  type HttpAnswer,
  licensee,
  type Parties,
  startParties,
  submit,
  value,
} from './server-parties.ts';

const ID = 'lic_ceremonies';
const HOUR_MS = 3_600_000;
const colleague = randomBytes(32).toString('hex');
const deviceClock = new ManualClock(Date.now());
let parties: Parties;
let host: string;

beforeAll(async () => {
  parties = await startParties({
    deviceClock,
    settings: { operators: [{ name: 'colleague', credential: colleague }] },
  });
  host = await licensee(parties, ID, '1000000');
});
afterAll(async () => {
  await parties.stop();
});

const officer = async (name: string, by = parties.operator): Promise<string> =>
  (await ask(parties, by, '/v1/people', { name, role: 'officer' })).json<{ credential: string }>().credential;
const ordered = (role: string, by: string) => ask(parties, by, '/v1/key-ceremonies', { role, reason: 'yearly' });
const confirmed = (ceremony: string, by: string) => ask(parties, by, `/v1/key-ceremonies/${ceremony}/confirmation`, {});
const nameIn = (answer: HttpAnswer): string => answer.json<KeyCeremony>().ceremony;
const bundleNow = async (): Promise<TrustBundle> =>
  value(parseTrustBundle(Buffer.from((await ask(parties, null, '/v1/trust-bundle')).body).toString()));
const epochsOf = (bundle: TrustBundle, role: string): number[] =>
  bundle.keys.filter((key) => key.role === role).map(({ epoch }) => epoch);
const acts = async (subject: string): Promise<string[]> => {
  const { entries } = (await ask(parties, parties.operator, '/v1/audit-entries?limit=1000')).json<{
    entries: { act: string; actor: string; subject: string }[];
  }>();
  return entries.filter((entry) => entry.subject === subject).map(({ act, actor }) => `${act} ${actor}`);
};

describe('A key ceremony', () => {
  it('is ordered by one officer and confirmed by another: neither alone, nor with a credential of which they made one', async () => {
    const [ann, bob] = [await officer('ann'), await officer('bob')];
    const order = await ordered('confirming', ann);
    expect(order.json()).toMatchObject({ role: 'confirming', orderedBy: 'ann', confirmedBy: null, epoch: null });
    // One open order a role: somebody who asks again sees it.
    expect(nameIn(await ordered('confirming', bob))).toBe(nameIn(order));
    expect((await confirmed(nameIn(order), ann)).json()).toMatchObject({ code: 'second-person-needed' });
    // Whoever has the bootstrap credential made both officers.
    expect((await confirmed(nameIn(order), parties.operator)).json()).toMatchObject({
      code: 'second-person-dependent',
    });
    expect(epochsOf(await bundleNow(), 'confirming')).toEqual([1]);
    expect((await confirmed(nameIn(order), bob)).json()).toMatchObject({
      orderedBy: 'ann',
      confirmedBy: 'bob',
      epoch: 2,
    });
    expect((await confirmed(nameIn(order), colleague)).json()).toMatchObject({ confirmedBy: 'bob', epoch: 2 });
    expect((await confirmed(nameIn(order), ann)).json()).toMatchObject({ code: 'second-person-needed' });
    expect(await acts('confirming')).toEqual(['ceremony-ordered ann', 'ceremony-confirmed bob', 'role-key-rotated ']);
    expect((await confirmed(`cer_${'0'.repeat(32)}`, bob)).json()).toMatchObject({
      code: 'unknown-ceremony',
      status: 404,
    });
    expect((await ordered('granting', ann)).json()).toMatchObject({ code: 'malformed' });
    expect((await ordered('customer', ann)).json()).toMatchObject({ code: 'malformed' });
  });

  it('that nobody has confirmed is cancelled by any officer, once, and is carried out no more', async () => {
    const [ann, bob] = [await officer('ann-c'), await officer('bob-c')];
    const order = await ordered('agreement', ann);
    const cancel = (name: string, by: string, reason = 'the wrong role') =>
      ask(parties, by, `/v1/key-ceremonies/${name}/cancellation`, { reason });
    expect((await cancel(nameIn(order), host)).json()).toMatchObject({ code: 'unauthorised' });
    for (const by of [ann, bob]) {
      expect((await cancel(nameIn(order), by)).json()).toMatchObject({
        cancelledBy: 'ann-c',
        confirmedBy: null,
        epoch: null,
      });
    }
    expect((await confirmed(nameIn(order), bob)).json()).toMatchObject({
      code: 'ceremony-cancelled',
      detail: expect.stringContaining('by ann-c'),
    });
    // It stands in nobody's way.
    const next = await ordered('agreement', bob);
    expect(nameIn(next)).not.toBe(nameIn(order));
    expect((await confirmed(nameIn(next), ann)).json()).toMatchObject({ epoch: 2 });
    expect((await cancel(nameIn(next), ann)).json()).toMatchObject({
      code: 'ceremony-confirmed',
      detail: expect.stringContaining('by ann-c'),
    });
    expect((await cancel(`cer_${'0'.repeat(32)}`, ann)).json()).toMatchObject({ code: 'unknown-ceremony' });
    expect(await acts('agreement')).toEqual([
      'ceremony-ordered ann-c',
      'ceremony-cancelled ann-c',
      'ceremony-ordered bob-c',
      'ceremony-confirmed ann-c',
      'role-key-rotated ',
    ]);
  });

  it('has to wait for an hour after the last of the role, whatever the server says, and is then gone on with', async () => {
    const order = await ordered('confirming', colleague);
    const again = () => confirmed(nameIn(order), parties.operator);
    expect((await again()).json()).toMatchObject({ code: 'rotation-too-soon' });
    const { ceremonies } = (await ask(parties, colleague, '/v1/key-ceremonies')).json<{ ceremonies: KeyCeremony[] }>();
    expect(ceremonies.at(-1)).toMatchObject({ confirmedBy: 'operator', epoch: null });
    deviceClock.advance(HOUR_MS);
    await parties.restart();
    expect((await again()).json()).toMatchObject({ epoch: 3 });
  });

  it('that the cryptographic device knows and the server forgot is carried out once', async () => {
    const { ceremony, role } = (await ordered('funds', colleague)).json<KeyCeremony>();
    // The server ended between the answer of the cryptographic device and its own commit.
    const certificate = value(await parties.call(CRYPTOGRAPHIC_DEVICE.rotateRoleKey, { role, ceremony }));
    await parties.restart();
    expect((await confirmed(ceremony, parties.operator)).json()).toMatchObject({ epoch: 2 });
    expect(value(await parties.call(CRYPTOGRAPHIC_DEVICE.rotateRoleKey, { role, ceremony }))).toEqual(certificate);
    const other = await parties.call(CRYPTOGRAPHIC_DEVICE.rotateRoleKey, { role: 'policy', ceremony });
    expect(other).toMatchObject({ ok: false, rejection: { code: 'ceremony-conflict' } });
    expect(epochsOf(await bundleNow(), 'funds')).toEqual([1, 2]);
  });
});

describe('Keys of every role that are rotated while a device works', () => {
  it('lose no record: what was attested before is confirmed, what was confirmed stays, each under the key of its time', async () => {
    const device = await enrolled(parties, host, ID);
    device.receive(1_000_000n);
    const before = device.record();
    const [accepted] = await submit(parties, host, [before]);
    // A record that was attested, and not yet confirmed, under the old keys.
    const held = device.record();
    const [{ attestation } = {}] = value(
      await parties.call(CRYPTOGRAPHIC_DEVICE.authenticate, { records: [held] }),
    ).results;
    deviceClock.advance(2 * HOUR_MS);
    for (const role of CERTIFIED_ROLES) {
      const order = await ordered(role, colleague);
      expect((await confirmed(nameIn(order), parties.operator)).status).toBe(200);
    }
    const late = value(
      await parties.call(CRYPTOGRAPHIC_DEVICE.confirm, { items: [{ record: held, attestation: attestation! }] }),
    );
    expect(late.results[0]?.confirmation).toBeDefined();
    const [afterwards, repeated] = [await submit(parties, host, [held]), await submit(parties, host, [before])];
    expect(afterwards[0]).toMatchObject({ outcome: 'accepted' });
    expect(repeated[0]?.confirmation).toEqual(accepted?.confirmation);
    const third = device.record();
    const [last] = await submit(parties, host, [third]);

    const now = await bundleNow();
    for (const bundle of [parties.bundle, now]) {
      const roles: Trust = { port: nodeVerification, keys: trustedKeys(bundle) };
      for (const [record, answer] of [
        [before, accepted],
        [held, afterwards[0]],
        [third, last],
      ] as const) {
        expect(verifyMessage(CONFIRMATION, answer?.confirmation ?? new Uint8Array(), roles)).toMatchObject({
          ok: true,
        });
        const stored = await parties.service.database.read((tables) =>
          tables
            .selectFrom('certificate')
            .select('certificate')
            .where('device', '=', device.device)
            .executeTakeFirstOrThrow(),
        );
        const certificate = value(verifyMessage(DEVICE_CERTIFICATE, stored.certificate, roles));
        const trust: Trust = { port: nodeVerification, keys: trustedKeys(bundle, [certificate]) };
        expect(verifyAttestedRecord(record, answer?.attestation ?? new Uint8Array(), trust)).toMatchObject({
          ok: true,
        });
      }
    }
    const epochs = [accepted, afterwards[0], last].map(({ confirmation } = {} as never) => {
      const envelope = parseEnvelope(confirmation ?? new Uint8Array());
      return envelope.ok ? envelope.value.key.epoch : 0;
    });
    expect(epochs).toEqual([3, 4, 4]);
    // A new device is certified by the new issuing key, and works.
    const next = await enrolled(parties, host, ID);
    next.receive(1_000n);
    expect((await submit(parties, host, [next.record()]))[0]).toMatchObject({ outcome: 'accepted' });
    await parties.restart();
    expect((await submit(parties, host, [third]))[0]?.confirmation).toEqual(last?.confirmation);
  });

  it('are in the bundle that a server gives out which lost its own store', async () => {
    const known = await bundleNow();
    deviceClock.advance(2 * HOUR_MS);
    await parties.restart(() => {
      for (const end of ['', '-wal', '-shm'])
        rmSync(join(parties.folder, 'server', `server.sqlite${end}`), { force: true });
    });
    // It rests on an issuing key that this server has never heard of.
    const next = await ordered('policy', colleague);
    expect((await confirmed(nameIn(next), parties.operator)).json()).toMatchObject({ role: 'policy', epoch: 3 });
    const now = await bundleNow();
    expect(epochsOf(now, 'policy')).toEqual([1, 2, 3]);
    const others = now.keys.filter(({ role, epoch }) => role !== 'policy' || epoch !== 3);
    const order = (keys: TrustBundle['keys']) =>
      keys.map(({ role, epoch, publicKey }) => `${role} ${epoch} ${Buffer.from(publicKey).toString('hex')}`).sort();
    expect(order(others)).toEqual(order(known.keys));
    expect(epochsOf(known, 'confirming')).toEqual([1, 2, 3, 4]);
  });
});
