/**
 * `accept`: records a second that are verified, durably logged, attested and confirmed, over HTTP, 256 a request,
 * of many devices, by a real server and a real cryptographic device; against 1/(1/verify + 2/sign) on one core.
 *
 * The devices are simulated: their records are signed before the clock starts. The followers run, as they always do; there
 * is no authority to deliver to.
 */
import { randomBytes } from 'node:crypto';
import type { LicenseeId } from '@countermark/protocol/id';
import { answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { type AcceptanceParties, startAcceptanceParties } from './acceptance-parties.ts';
import { type BenchmarkRun, type Figure, figureOfLimit } from './figure.ts';
import { SimulatedDevice } from './simulated-device.ts';

const LICENSEE = 'lic_bench' as LicenseeId;
const CBOR_LIMITS = { maxBytes: 4 * 1024 * 1024, maxDepth: 12 };

const SIZES = {
  smoke: { devices: 8, submissions: 4, recordsEach: 16 },
  standard: { devices: 64, submissions: 96, recordsEach: 256 },
  full: { devices: 256, submissions: 400, recordsEach: 256 },
} as const;
/** Submissions under way at a time, as of several hosts. */
const IN_FLIGHT = 4;

/** Measures. @throws Error if a record is not accepted. */
export async function benchmark({ size, limits, folder }: BenchmarkRun): Promise<readonly Figure[]> {
  const rate = await recordsPerSecond(size, await startAcceptanceParties(folder));
  const limit = 1 / (1 / limits.verifiesPerSecond + 2 / limits.signsPerSecond);
  return [figureOfLimit('accept', rate, 'records/s', limit, { atLeast: 0.7 })];
}

/** Records a second through these parties, which are stopped at the end. @throws Error if a record is not accepted. */
export async function recordsPerSecond(size: BenchmarkRun['size'], parties: AcceptanceParties): Promise<number> {
  const { devices, submissions, recordsEach } = SIZES[size];
  try {
    const credential = await licensee(parties);
    const simulated = Array.from({ length: devices }, () => new SimulatedDevice(LICENSEE));
    for (const device of simulated) await enrol(parties, credential, device);
    const warm = bodies(simulated, 2 * IN_FLIGHT, recordsEach);
    const measured = bodies(simulated, submissions, recordsEach);
    await sendAll(parties, credential, warm, IN_FLIGHT);
    const startedMs = performance.now();
    await sendAll(parties, credential, measured, IN_FLIGHT);
    const seconds = (performance.now() - startedMs) / 1_000;
    return (submissions * recordsEach) / seconds;
  } finally {
    await parties.stop();
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

async function enrol(
  { url, operatorCredential }: AcceptanceParties,
  credential: string,
  device: SimulatedDevice,
): Promise<void> {
  const request = Buffer.from(device.enrolmentRequest(randomBytes(16))).toString('base64url');
  const { code } = await post(url, `/v1/licensees/${LICENSEE}/enrolment-codes`, operatorCredential, {});
  await post(url, '/v1/devices', credential, { licensee: LICENSEE, request, code });
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
