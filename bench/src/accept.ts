/**
 * The figure `accept`: records a second that are verified, durably logged, attested and confirmed, over HTTP, 256 a request,
 * of many devices, by a real server and a real cryptographic device; against 1/(1/verify + 2/sign) on one core.
 *
 * The devices are simulated: their records are signed before the clock starts. The followers run, as they always do; there
 * is no authority to deliver to.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateSigningKey, signP1363, verifyP1363 } from '@countermark/node-platform/signing';
import type { LicenseeId } from '@countermark/protocol/id';
import { answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { type AcceptanceParties, startAcceptanceParties } from './acceptance-parties.ts';
import { SimulatedDevice } from './simulated-device.ts';

const LICENSEE = 'lic_bench' as LicenseeId;
const CBOR_LIMITS = { maxBytes: 4 * 1024 * 1024, maxDepth: 12 };

export type AcceptOptions = {
  readonly devices?: number;
  readonly submissions?: number;
  readonly recordsEach?: number;
  readonly inFlight?: number;
  /** Where to put the parties' folders. Default: the system's temp folder. */
  readonly folder?: string;
};

export type AcceptFigures = {
  readonly recordsPerSecond: number;
  /** On one core, in the same run. */
  readonly signPerSecond: number;
  readonly verifyPerSecond: number;
  /** 1/(1/verify + 2/sign). */
  readonly limitPerSecond: number;
  readonly ratio: number;
};

/** Measures. @throws Error if a record is not accepted. */
export async function measureAcceptance(options: AcceptOptions = {}): Promise<AcceptFigures> {
  const { devices = 64, submissions = 96, recordsEach = 256, inFlight = 4 } = options;
  const folder = mkdtempSync(join(options.folder ?? tmpdir(), 'cm-accept-'));
  const parties = await startAcceptanceParties(folder);
  try {
    const credential = await licensee(parties);
    const simulated = Array.from({ length: devices }, () => new SimulatedDevice(LICENSEE));
    for (const device of simulated) await enrol(parties, credential, device);
    const before = oneCore();
    const warm = bodies(simulated, 2 * inFlight, recordsEach);
    const measured = bodies(simulated, submissions, recordsEach);
    await sendAll(parties, credential, warm, inFlight);
    const startedMs = performance.now();
    await sendAll(parties, credential, measured, inFlight);
    const seconds = (performance.now() - startedMs) / 1_000;
    const after = oneCore();
    const signPerSecond = (before.signPerSecond + after.signPerSecond) / 2;
    const verifyPerSecond = (before.verifyPerSecond + after.verifyPerSecond) / 2;
    const recordsPerSecond = (submissions * recordsEach) / seconds;
    const limitPerSecond = 1 / (1 / verifyPerSecond + 2 / signPerSecond);
    return {
      recordsPerSecond,
      signPerSecond,
      verifyPerSecond,
      limitPerSecond,
      ratio: recordsPerSecond / limitPerSecond,
    };
  } finally {
    await parties.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Submissions in order: each has the next records of devices that no submission beside it has. */
function bodies(devices: readonly SimulatedDevice[], count: number, recordsEach: number): Uint8Array[] {
  // Devices come in groups, so that submissions in flight side by side have none in common; each gives several records in order.
  const groups = 8;
  const perGroup = Math.max(1, Math.floor(devices.length / groups));
  return Array.from({ length: count }, (_, submission) => {
    const group = submission % groups;
    const own = devices.slice(group * perGroup, (group + 1) * perGroup);
    const records = Array.from({ length: recordsEach }, (_each, index) => {
      const device = own[index % own.length] ?? devices[0];
      if (device === undefined) throw new Error('no devices');
      device.receive(740n);
      return device.record();
    });
    return encodeWith(submissionSchema, { records });
  });
}

async function sendAll(
  { url }: AcceptanceParties,
  credential: string,
  requests: readonly Uint8Array[],
  inFlight: number,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (;;) {
      const body = requests[next++];
      if (body === undefined) return;
      const response = await fetch(new URL('/v1/records', url), {
        method: 'POST',
        headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/cbor' },
        body: Buffer.from(body),
      });
      const answer = new Uint8Array(await response.arrayBuffer());
      if (!response.ok) throw new Error(`${response.status}: ${Buffer.from(answer).toString()}`);
      const parsed = parseBytes(answersSchema, answer, CBOR_LIMITS);
      if (!parsed.ok) throw new Error(parsed.rejection.code);
      const refused = parsed.value.answers.find((one) => one.outcome !== 'accepted');
      if (refused !== undefined) throw new Error(`not accepted: ${JSON.stringify(refused.rejection)}`);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
}

async function licensee({ url, operatorCredential }: AcceptanceParties): Promise<string> {
  const answer = await post(url, '/v1/licensees', operatorCredential, {
    licensee: LICENSEE,
    name: 'Benchmark',
    kind: 'mailer',
  });
  return String(answer['credential']);
}

async function enrol({ url }: AcceptanceParties, credential: string, device: SimulatedDevice): Promise<void> {
  const request = Buffer.from(device.enrolmentRequest(randomBytes(16))).toString('base64url');
  await post(url, '/v1/devices', credential, { licensee: LICENSEE, request });
}

async function post(url: string, path: string, credential: string, body: object): Promise<Record<string, unknown>> {
  const response = await fetch(new URL(path, url), {
    method: 'POST',
    headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
  return JSON.parse(text) as Record<string, unknown>;
}

/** Synchronous signatures and verifications a second of this thread. */
function oneCore(): { readonly signPerSecond: number; readonly verifyPerSecond: number } {
  const { privateKey, publicKey } = generateSigningKey();
  const input = randomBytes(600);
  const signature = signP1363(privateKey, input);
  const perSecond = (work: () => void): number => {
    const startedMs = performance.now();
    let count = 0;
    while (performance.now() - startedMs < 500) {
      for (let i = 0; i < 50; i += 1) work();
      count += 50;
    }
    return (count * 1_000) / (performance.now() - startedMs);
  };
  return {
    signPerSecond: perSecond(() => signP1363(privateKey, input)),
    verifyPerSecond: perSecond(() => verifyP1363(publicKey, input, signature)),
  };
}
