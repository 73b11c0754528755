/**
 * The cryptographic device against its server: a whole one over its socket, asked what a server asks, rightly or altered.
 *
 * An input picks the operation, and says how its right parameters are changed. After each call: nothing was attested or confirmed but
 * records that a device authenticated; a grant says what was decided for its request, and no more than fits an amount; the same request
 * gets the same bytes; a ceremony makes one key, of its role; and no call was answered by a fault.
 */
import { join as joinPath } from 'node:path';
import { X509Certificate } from 'node:crypto';
import { startService } from '@countermark/cryptographic-device/service';
import { systemClock } from '@countermark/node-platform/clock';
import { openLog } from '@countermark/node-platform/logs';
import { connectRpc } from '@countermark/node-platform/rpc';
import { publicKeyBytes } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { decode, encode, FRAME_LIMITS } from '@countermark/protocol/cbor';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { digestText } from '@countermark/protocol/digest';
import type { LicenseeId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { ROTATED_KEYS, parsePayload, type MessageType } from '@countermark/protocol/message';
import { MAX_MILLS, mills } from '@countermark/protocol/money';
import { encodeWith, parseValue } from '@countermark/protocol/schema';
import { policySchema, SUSPENSION } from '@countermark/protocol/messages/policy';
import { certificateRequest } from '@countermark/psd/shell/certificate-request';
import { signingKey } from '@countermark/psd/shell/keys';
import { DEFAULT_POLICY } from '@countermark/server/policies';
import { SimulatedDevice } from '../../../bench/src/simulated-device.ts';
import { mutateCbor } from '../cbor-tree.ts';
import { Random } from '../random.ts';
import { ACCEPTED, must, type Opened, type Target } from '../target.ts';
import { mutateCall } from './psd.ts';

const LICENSEE = 'lic_fuzz' as LicenseeId;

const OPERATIONS = Object.values(CRYPTOGRAPHIC_DEVICE as unknown as Record<string, Operation<unknown, unknown>>);

export const cryptographicDeviceTarget: Target = {
  name: 'cryptographic-device',
  about:
    'a cryptographic device asked rightly or not: it attests and confirms authentic records only, suspends after no others, grants what was decided, once',
  words: ['protocol'],
  maxBytes: 4,
  mutations: [mutateCall],
  open: openCryptographicDevice,
};

async function openCryptographicDevice(folder: string): Promise<Opened> {
  const at = (name: string): string => joinPath(folder, name);
  const closing: (() => Promise<void> | void)[] = [];
  const started = await startService(
    { data: at('data'), socket: at('cd'), sessionSocket: at('cds'), acceptanceSocket: at('acc') },
    {
      clock: systemClock,
      log: openLog('fuzz', { write: () => undefined }),
      onClose: (hook) => void closing.push(hook),
    },
  );
  must(started.ok, 'the device does not start');
  const client = await connectRpc(at('cd'));
  const ask = async (name: string, parameters: unknown): Promise<unknown> => {
    const operation = operationOf(name);
    const answer = await client.call(name, operation.request.toCbor(parameters));
    must(answer.ok, `${name} is refused`);
    const told = parseValue(operation.answer, answer.value);
    must(told.ok, `${name} is answered in another form`);
    return told.value;
  };
  const { agreementKey } = (await ask('public-keys', {})) as { agreementKey: Uint8Array };
  const devices = (['signature', 'mac'] as const).map(
    (authentication) => new SimulatedDevice(LICENSEE, authentication),
  );
  const records: Uint8Array[] = [];
  for (const device of devices) {
    device.agree(agreementKey);
    await ask('enrol', { request: device.enrolmentRequest(), licensee: LICENSEE, certified: false });
    device.receive(1_000_000n);
    for (let i = 0; i < 4; i++) records.push(device.record({ pieces: i + 1 }));
  }
  const genuine = new Set(records.map(digestOf));
  const attestedRecords = (await ask('authenticate', { records })) as {
    results: readonly { attestation: Uint8Array }[];
  };
  const { results } = attestedRecords;
  const items = records.map((record, i) => ({ record, attestation: results[i]?.attestation ?? new Uint8Array() }));
  const policies: Uint8Array[] = [];
  for (const { device } of devices) {
    const said = { ...DEFAULT_POLICY, device, licensee: LICENSEE, version: 1, customers: [] };
    const signed = await ask('sign-policy', { policy: encodeWith(policySchema, said) });
    policies.push((signed as { policy: Uint8Array }).policy);
  }
  // The one that is suspended, and withdrawn where a change makes it so: its own records are none of those above.
  const suspect = new SimulatedDevice(LICENSEE);
  await ask('enrol', { request: suspect.enrolmentRequest(), licensee: LICENSEE, certified: false });
  suspect.receive(1_000_000n);
  const suspectRecords = [suspect.record(), suspect.record()];
  const seen = (await ask('authenticate', { records: suspectRecords })) as typeof attestedRecords;
  const lasts = suspectRecords.map((record, i) => ({ record, attestation: seen.results[i]?.attestation }));
  let fundsNumber = 0;
  const grants = new Map<string, Uint8Array>();
  const ceremonies = new Map<string, Uint8Array>();

  const parametersOf = (name: string, random: Random): unknown => {
    const device = random.pick(devices);
    switch (name) {
      case 'enrol':
        return { request: device.enrolmentRequest(random.bytes(16)), licensee: LICENSEE, certified: false };
      case 'authenticate':
        return { records: [random.pick(records), random.pick(records)] };
      case 'confirm':
        return { items: [random.pick(items), random.pick(items)] };
      case 'fund': {
        if (!random.once(3)) fundsNumber += 1;
        const draws = [{ amountMills: mills(BigInt(random.below(1_000))) }];
        return { request: device.fundsRequest(Math.max(1, fundsNumber), 1_000n), depositMills: mills(1_000n), draws };
      }
      case 'identify': {
        const request = certificateRequest(device.device, signingKey(device.signatureKey));
        const at = random.below(request.length);
        if (!random.once(3)) request[at] = (request[at] ?? 0) ^ (1 << random.below(8));
        return { request, policy: random.once(8) ? policies[0] : policies[devices.indexOf(device)] };
      }
      case 'sign-time':
        return { device: device.device };
      case 'suspend': {
        // Its last record, one of another device, or none.
        const last = random.once(4) ? {} : { last: random.once(4) ? random.pick(items) : random.pick(lasts) };
        return { device: suspect.device, licensee: LICENSEE, suspended: true, reason: 'fuzz', ...last };
      }
      case 'revoke-sessions':
        return { device: device.device, licensee: LICENSEE };
      case 'rotate-role-key':
        return { role: random.pick(ROTATED_KEYS), ceremony: `cer_${`${random.below(4)}`.repeat(32)}` };
      case 'sign-policy':
        return { policy: random.bytes(random.below(100) + 1) };
      default:
        return {};
    }
  };
  const check = (name: string, asked: unknown, told: unknown): void => {
    if (name === 'authenticate') {
      for (const { attestation } of (told as { results: readonly { attestation?: Uint8Array }[] }).results) {
        if (attestation === undefined) continue;
        must(
          genuine.has(digestText(payloadOf(ATTESTATION, attestation).digest)),
          'a record is attested that no device authenticated',
        );
      }
    } else if (name === 'confirm') {
      for (const { confirmation } of (told as { results: readonly { confirmation?: Uint8Array }[] }).results) {
        if (confirmation === undefined) continue;
        must(
          genuine.has(digestText(payloadOf(CONFIRMATION, confirmation).digest)),
          'a record is confirmed that no device authenticated',
        );
      }
    } else if (name === 'rotate-role-key') {
      const { role, ceremony } = asked as { role: string; ceremony: string };
      const { certificate } = told as { certificate: Uint8Array };
      must(payloadOf(ROLE_CERTIFICATE, certificate).role === role, 'the key of another role is certified');
      const before = ceremonies.get(ceremony);
      must(before === undefined || Buffer.compare(before, certificate) === 0, 'one ceremony has two keys');
      ceremonies.set(ceremony, certificate);
    } else if (name === 'suspend') {
      const { suspended, withdrawn, last } = asked as {
        suspended: boolean;
        withdrawn?: boolean;
        last?: { record: Uint8Array };
      };
      const said = payloadOf(SUSPENSION, (told as { suspension: Uint8Array }).suspension);
      must(
        said.withdrawn === true || said.suspended === (suspended || withdrawn === true),
        'another word than was asked',
      );
      if (said.withdrawn === true || !said.suspended || said.device !== suspect.device) return;
      const sequence =
        last === undefined ? 0 : suspectRecords.findIndex((one) => digestOf(one) === digestOf(last.record)) + 1;
      must(
        said.afterSequence === sequence,
        'a suspension after a record that the device has not, or that nobody attested',
      );
    } else if (name === 'revoke-sessions') {
      must((told as { epoch: number }).epoch === 1, 'the sessions of an epoch are revoked that no device has');
    } else if (name === 'identify') {
      const { certificate } = told as { certificate: Uint8Array };
      const certified = publicKeyBytes(new X509Certificate(certificate).publicKey);
      must(
        devices.some(({ signatureKey }) => Buffer.compare(publicKeyBytes(signatureKey), certified) === 0),
        'a key is certified that no device has',
      );
    } else if (name === 'fund') {
      const { request } = asked as { request: Uint8Array };
      const { grant } = told as { grant: Uint8Array };
      const { amountMills, receivedMills } = payloadOf(FUNDS_GRANT, grant);
      must(amountMills <= MAX_MILLS && receivedMills <= MAX_MILLS, 'a grant beyond what an amount holds');
      const of = digestOf(request);
      const before = grants.get(of);
      must(before === undefined || Buffer.compare(before, grant) === 0, 'one request has two grants');
      grants.set(of, grant);
    }
  };
  const number = (name: string): number => OPERATIONS.findIndex((one) => one.name === name);
  return {
    seeds: OPERATIONS.flatMap(({ name }) => [0, 3, 4].map((changes) => Uint8Array.of(number(name), changes, 1, 1))),
    run: async (input) => {
      const [which = 0, changes = 0, one = 0, other = 0] = input;
      const operation = OPERATIONS[which % OPERATIONS.length] as Operation<unknown, unknown>;
      const random = new Random(`${one} ${other}`);
      const exact = encode(operation.request.toCbor(parametersOf(operation.name, random)));
      let bytes = exact;
      for (let i = (changes % 6) - 2; i > 0; i--) {
        bytes = mutateCbor(bytes, { random, words: [LICENSEE], other: () => random.pick(records), maxBytes: 65_536 });
      }
      const wire = decode(bytes, { ...FRAME_LIMITS, maxDepth: FRAME_LIMITS.maxDepth - 1 });
      if (!wire.ok) return wire.rejection.code;
      const answer = await client.call(operation.name, wire.value);
      if (!answer.ok) return `${operation.name}: ${answer.rejection.code}`;
      const asked = parseValue(operation.request, wire.value);
      const told = parseValue(operation.answer, answer.value);
      must(asked.ok && told.ok, 'an answer to what is no request, or of another form');
      check(operation.name, asked.value, told.value);
      return ACCEPTED;
    },
    close: async () => {
      client.close();
      for (const hook of closing.reverse()) await hook();
    },
  };
}

function operationOf(name: string): Operation<unknown, unknown> {
  const operation = OPERATIONS.find((one) => one.name === name);
  must(operation !== undefined, `there is no operation ${name}`);
  return operation;
}

function digestOf(message: Uint8Array): string {
  const envelope = parseEnvelope(message);
  must(envelope.ok, 'a message that is no envelope');
  return digestText(messageDigest(envelope.value, sha256));
}

function payloadOf<T>(of: MessageType<T>, message: Uint8Array): T {
  const envelope = parseEnvelope(message);
  must(envelope.ok, 'an answer that is no envelope');
  const payload = parsePayload(of, envelope.value);
  must(payload.ok, 'an answer of another type');
  return payload.value;
}
