/**
 * The cryptographic device over its socket: what it attests and confirms, and everything that it refuses to sign.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startService } from '@countermark/cryptographic-device/service';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { openLog } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import { connectRpc } from '@countermark/node-platform/rpc';
import type { LicenseeId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { POLICY, policySchema, SIGNED_TIME, SUSPENSION } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { encodeWith, parseValue } from '@countermark/protocol/schema';
import { DEFAULT_POLICY } from '@countermark/server/policies';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { value } from './server-parties.ts';

const LICENSEE = 'lic_test' as LicenseeId;
const { authenticate, confirm, enrol, fund, publicKeys, signPolicy, signTime, suspend } = CRYPTOGRAPHIC_DEVICE;
const clock = new ManualClock(1_795_000_000_000);
const folder = mkdtempSync(join(tmpdir(), 'cda-'));

type Call = <Request, Answer>(operation: Operation<Request, Answer>, request: Request) => Promise<Result<Answer>>;

/** The device's process, as often as a test starts it. */
async function start(): Promise<{ call: Call; stop: () => Promise<void> }> {
  const hooks: (() => Promise<void> | void)[] = [];
  const at = (name: string): string => join(folder, name);
  const paths = {
    data: at('cd'),
    socket: at('cd.sock'),
    sessionSocket: at('cds.sock'),
    acceptanceSocket: at('a.sock'),
  };
  const log = openLog('test', { write: () => undefined });
  value(await startService(paths, { clock, log, onClose: (hook) => void hooks.push(hook) }));
  const rpc = await connectRpc(paths.socket);
  return {
    call: async (operation, request) => {
      const answer = await rpc.call(operation.name, operation.request.toCbor(request));
      return answer.ok ? parseValue(operation.answer, answer.value) : answer;
    },
    stop: async () => {
      rpc.close();
      for (const hook of hooks.reverse()) await hook();
    },
  };
}

let running: Awaited<ReturnType<typeof start>>;
const call: Call = (operation, request) => running.call(operation, request);
let trust: Parameters<typeof verifyMessage>[2];

beforeAll(async () => {
  running = await start();
  const keys = value(await call(publicKeys, {}));
  trust = { port: nodeVerification, keys: trustedKeys(keys) };
});
afterAll(async () => {
  await running.stop();
  rmSync(folder, { recursive: true });
});

async function device(authentication: 'signature' | 'mac' = 'signature'): Promise<SimulatedDevice> {
  const simulated = new SimulatedDevice(LICENSEE, authentication);
  value(await call(enrol, { request: simulated.enrolmentRequest(), licensee: LICENSEE, certified: false }));
  simulated.agree(value(await call(publicKeys, {})).agreementKey);
  simulated.receive(100_000n);
  return simulated;
}

const flipped = (bytes: Uint8Array, at: number): Uint8Array => bytes.map((byte, i) => (i === at ? byte ^ 1 : byte));
const attested = async (record: Uint8Array): Promise<Uint8Array> => {
  const { results } = value(await call(authenticate, { records: [record] }));
  return results[0]!.attestation!;
};
const confirmCode = async (record: Uint8Array, attestation: Uint8Array): Promise<string> => {
  const { results } = value(await call(confirm, { items: [{ record, attestation }] }));
  return results[0]!.rejection?.code ?? 'confirmed';
};

describe.each(['signature', 'mac'] as const)('Records by %s', (authentication) => {
  it('are attested, many of several devices at once, each for itself', async () => {
    const devices = await Promise.all([device(authentication), device(authentication)]);
    const records = Array.from({ length: 40 }, (_, i) => devices[i % 2]!.record());
    records[7] = flipped(records[7]!, records[7]!.length - 1);
    const { results } = value(await call(authenticate, { records }));
    expect(results.map((one) => one.rejection?.code)).toEqual(
      records.map((_, i) => (i === 7 ? 'bad-authenticator' : undefined)),
    );
    const last = value(verifyMessage(ATTESTATION, results[39]!.attestation!, trust)).message;
    expect(last).toMatchObject({
      device: devices[1].device,
      sequence: 20,
      digest: devices[1].head,
      authentication,
      attestedAtMs: clock.nowMs(),
    });
  });

  it('with any byte altered are not attested', async () => {
    const record = (await device(authentication)).record();
    const records = Array.from({ length: 200 }, (_, i) => flipped(record, Math.floor((i * record.length) / 200)));
    const { results } = value(await call(authenticate, { records }));
    expect(results.filter((one) => one.attestation !== undefined)).toEqual([]);
  });

  it.each(['a moment ago', 'before the process was started again'])('attested %s are confirmed', async (when) => {
    const simulated = await device(authentication);
    const record = simulated.record();
    const attestation = await attested(record);
    if (when !== 'a moment ago') {
      await running.stop();
      running = await start();
    }
    const { results } = value(await call(confirm, { items: [{ record, attestation }] }));
    const said = value(verifyMessage(CONFIRMATION, results[0]!.confirmation!, trust)).message;
    expect(said).toMatchObject({ device: simulated.device, sequence: 1, digest: simulated.head });
    // Asked again it is verified anew, and confirmed again: the server keeps the first.
    expect(await confirmCode(record, attestation)).toBe('confirmed');
  });

  it('or attestations, altered alone, are not confirmed', async () => {
    const record = (await device(authentication)).record();
    const attestation = await attested(record);
    for (let at = 0; at < record.length; at += 13) {
      expect(await confirmCode(flipped(record, at), attestation)).not.toBe('confirmed');
    }
    for (let at = 0; at < attestation.length; at += 7) {
      expect(await confirmCode(record, flipped(attestation, at))).not.toBe('confirmed');
    }
    expect(await confirmCode(record, attestation)).toBe('confirmed');
  });

  it('are not confirmed with the attestation of another record', async () => {
    const simulated = await device(authentication);
    const [one, other] = [simulated.record(), simulated.record()];
    await attested(other);
    expect(await confirmCode(other, await attested(one))).toBe('attestation-mismatch');
  });
});

describe('Records', () => {
  it('of a device that was not enrolled here, or by another procedure, are refused', async () => {
    const stranger = new SimulatedDevice(LICENSEE);
    stranger.receive(1_000n);
    const signed = await device('signature');
    const posing = new SimulatedDevice(LICENSEE, 'mac');
    Object.assign(posing, { device: signed.device });
    posing.agree(value(await call(publicKeys, {})).agreementKey);
    posing.receive(1_000n);
    const { results } = value(
      await call(authenticate, {
        records: [stranger.record(), posing.record(), Uint8Array.of(1, 2), new Uint8Array(300 * 1).fill(0xd2)],
      }),
    );
    expect(results.map((one) => one.rejection?.code)).toEqual([
      'unknown-device',
      'wrong-algorithm',
      'envelope-malformed',
      expect.stringMatching(/^cbor-/),
    ]);
  });

  it('that name another licensee than the certificate are refused', async () => {
    const simulated = await device();
    const record = simulated.seal({ ...simulated.statistics(), licensee: 'lic_other' as LicenseeId });
    const { results } = value(await call(authenticate, { records: [record] }));
    expect(results[0]!.rejection?.code).toBe('inconsistent');
  });
});

describe('Enrolment', () => {
  it('gives one certificate for each request, the same at every repeat', async () => {
    const simulated = new SimulatedDevice(LICENSEE);
    const request = simulated.enrolmentRequest();
    const parameters = { request, licensee: LICENSEE, certified: false };
    const first = value(await call(enrol, parameters)).certificate;
    expect(value(await call(enrol, parameters)).certificate).toEqual(first);
    const { message } = value(verifyMessage(DEVICE_CERTIFICATE, first, trust));
    expect(message).toMatchObject({ device: simulated.device, licensee: LICENSEE, certified: false });
    // The same keys in another request: its answer was lost.
    const again = { ...parameters, request: simulated.enrolmentRequest(randomBytes(16)) };
    expect(value(await call(enrol, again)).certificate).toEqual(first);
    const other = new SimulatedDevice(LICENSEE);
    other.device = simulated.device;
    const taken = { ...parameters, request: other.enrolmentRequest() };
    expect(await call(enrol, taken)).toMatchObject({ ok: false, rejection: { code: 'device-enrolled' } });
    const elsewhere = { ...parameters, licensee: 'lic_other' as LicenseeId };
    expect(await call(enrol, elsewhere)).toMatchObject({ ok: false, rejection: { code: 'device-enrolled' } });
  });

  it('is refused without proof of possession', async () => {
    const request = new SimulatedDevice(LICENSEE).enrolmentRequest();
    const altered = flipped(request, request.length - 3);
    expect(await call(enrol, { request: altered, licensee: LICENSEE, certified: false })).toMatchObject({
      ok: false,
      rejection: { code: 'bad-authenticator' },
    });
  });
});

describe('Funds', () => {
  const draws = [{ amountMills: mills(5n) }];

  it('are granted once for a request, the same bytes at every repeat, also of another decision', async () => {
    const simulated = await device();
    const request = simulated.fundsRequest(2, 1_000n);
    const first = value(await call(fund, { request, depositMills: mills(900n), draws })).grant;
    const said = value(verifyMessage(FUNDS_GRANT, first, trust)).message;
    expect(said).toMatchObject({ number: 2, amountMills: 905n, receivedMills: 100_905n, draws });
    expect(value(await call(fund, { request, depositMills: mills(1n), draws: [] })).grant).toEqual(first);
    const other = simulated.fundsRequest(2, 2_000n);
    expect(await call(fund, { request: other, depositMills: mills(1n), draws: [] })).toMatchObject({
      rejection: { code: 'funds-request-conflict' },
    });
    const earlier = simulated.fundsRequest(1, 2_000n);
    expect(await call(fund, { request: earlier, depositMills: mills(1n), draws: [] })).toMatchObject({
      rejection: { code: 'funds-request-conflict' },
    });
  });

  it('are never more from the deposit than was asked, and none on the word of an altered request', async () => {
    const simulated = await device('mac');
    const request = simulated.fundsRequest(1, 1_000n);
    expect(await call(fund, { request, depositMills: mills(1_001n), draws: [] })).toMatchObject({
      rejection: { code: 'limit-exceeded' },
    });
    const altered = flipped(request, request.length - 80);
    expect((await call(fund, { request: altered, depositMills: mills(1n), draws: [] })).ok).toBe(false);
    const refused = value(
      await call(fund, { request, depositMills: mills(0n), draws: [], refusal: 'no deposit' }),
    ).grant;
    expect(value(verifyMessage(FUNDS_GRANT, refused, trust)).message).toMatchObject({
      amountMills: 0n,
      receivedMills: 100_000n,
      refusal: 'no deposit',
    });
  });
});

describe('Policies, time and suspensions', () => {
  it('are signed for enrolled devices only', async () => {
    const simulated = await device();
    const { device: id } = simulated;
    const policy = encodeWith(policySchema, {
      ...DEFAULT_POLICY,
      device: id,
      licensee: LICENSEE,
      version: 3,
      customers: [],
    });
    const signed = value(await call(signPolicy, { policy })).policy;
    expect(value(verifyMessage(POLICY, signed, trust)).message.version).toBe(3);
    const { time } = value(await call(signTime, { device: id }));
    expect(value(verifyMessage(SIGNED_TIME, time, trust)).message.timeMs).toBe(clock.nowMs());
    const words = { device: id, licensee: LICENSEE, suspended: true, reason: 'a fork' };
    const { suspension } = value(await call(suspend, words));
    expect(value(verifyMessage(SUSPENSION, suspension, trust)).message).toMatchObject(words);
    const stranger = new SimulatedDevice(LICENSEE).device;
    expect(await call(signTime, { device: stranger })).toMatchObject({ rejection: { code: 'unknown-device' } });
    expect(await call(suspend, { ...words, device: stranger })).toMatchObject({
      rejection: { code: 'unknown-device' },
    });
    expect((await call(signPolicy, { policy: flipped(policy, 0) })).ok).toBe(false);
  });

  it('suspend after a record that was attested here, of that device, or after none', async () => {
    const simulated = await device();
    const words = { device: simulated.device, licensee: LICENSEE, suspended: true, reason: 'a fork' };
    const after = async (last?: { record: Uint8Array; attestation: Uint8Array }, withdrawn = false) => {
      const word = await call(suspend, {
        ...words,
        ...(last === undefined ? {} : { last }),
        ...(withdrawn ? { withdrawn } : {}),
      });
      return word.ok
        ? value(verifyMessage(SUSPENSION, word.value.suspension, trust)).message.afterSequence
        : word.rejection.code;
    };
    const attested = async (of: SimulatedDevice) => {
      const record = of.record();
      const { results } = value(await call(authenticate, { records: [record] }));
      return { record, attestation: results[0]?.attestation ?? new Uint8Array(1) };
    };
    const [first, second] = [await attested(simulated), await attested(simulated)];
    expect([await after(), await after(first), await after(second)]).toEqual([0, 1, 2]);
    // A record that the server names and nobody attested, an altered one, and another device's.
    const unseen = simulated.record();
    expect(await after({ record: unseen, attestation: second.attestation })).toBe('attestation-mismatch');
    expect(await after({ ...second, attestation: flipped(second.attestation, second.attestation.length - 1) })).toBe(
      'bad-authenticator',
    );
    expect(await after(await attested(await device()))).toBe('wrong-device');
    // Signed once: no later record takes its place.
    expect([await after(first, true), await after(second, true), await after(second)]).toEqual([1, 1, 1]);
    // The end of a suspension names none.
    const { suspension } = value(
      await call(suspend, { ...words, device: (await device()).device, suspended: false, last: first }),
    );
    expect(value(verifyMessage(SUSPENSION, suspension, trust)).message).not.toHaveProperty('afterSequence');
  });
});
