/**
 * HTTP: the server and the authority as they are, with embedded stores and a real cryptographic device in this process, asked
 * over the loopback interface with bodies, parameters, media types and credentials of any kind.
 *
 * Every answer is one that the interface knows: never a status of 500 or above (but `try-again`), every error problem+json with a code of the
 * catalogue. Without the right credential nothing is done. After every request the server's ledger sums to zero and no
 * deposit is below zero.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { join as joinPath } from 'node:path';
import { startAuthority } from '@countermark/authority/authority';
import { parseConfig as parseAuthorityConfig } from '@countermark/authority/config';
import { startService as startDevice } from '@countermark/cryptographic-device/service';
import { systemClock } from '@countermark/node-platform/clock';
import { openLog } from '@countermark/node-platform/logs';
import { connectRpc } from '@countermark/node-platform/rpc';
import { generateSigningKey, publicKeyBytes } from '@countermark/node-platform/signing';
import { encode } from '@countermark/protocol/cbor';
import type { LicenseeId } from '@countermark/protocol/id';
import { submissionSchema } from '@countermark/protocol/interfaces/answer';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { deliverySchema } from '@countermark/protocol/interfaces/delivery';
import { isRejectionCode } from '@countermark/protocol/rejection';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import type { Result } from '@countermark/protocol/result';
import { encodeWith, parseValue } from '@countermark/protocol/schema';
import { parseConfig as parseServerConfig } from '@countermark/server/config';
import { startService as startServer } from '@countermark/server/service';
import { formatTrustBundle, type TrustBundle } from '@countermark/verify/trust-bundle';
import { SimulatedDevice } from '../../../bench/src/simulated-device.ts';
import { mutateCbor } from '../cbor-tree.ts';
import { mutateJson } from '../json-tree.ts';
import { join, type Material, type Mutation, mutateBytes, mutateNumbers } from '../mutation.ts';
import { ACCEPTED, must, type Opened, type Target } from '../target.ts';
import { acceptedVectors, vectorText } from '../vectors.ts';

const encoder = new TextEncoder();

/** A request: three bytes that pick credential, media type and method, the path's length in two, the path, the body. */
type Request = { readonly picks: Uint8Array; readonly path: string; readonly body: Uint8Array };

function write({ picks, path, body }: Request): Uint8Array {
  const bytes = encoder.encode(path);
  return join(picks, Uint8Array.of(bytes.length >> 8, bytes.length & 255), bytes, body);
}

function read(input: Uint8Array): Request {
  const length = ((input[3] ?? 0) << 8) | (input[4] ?? 0);
  const path = Buffer.from(input.subarray(5, 5 + length)).toString('latin1');
  return { picks: Uint8Array.from([0, 1, 2], (i) => input[i] ?? 0), path, body: input.slice(5 + length) };
}

const TYPES = ['application/json', 'application/cbor', 'text/plain', 'application/json; charset=utf-8', ''];
const METHODS = ['GET', 'POST', 'PUT'];

const mutateRequest: Mutation = (input, material) => {
  const asked = read(input);
  const { random } = material;
  switch (random.below(8)) {
    case 0: {
      const picks = Uint8Array.from(asked.picks);
      picks[random.below(3)] = random.below(8);
      return write({ ...asked, picks });
    }
    case 1:
      return write({ ...asked, path: changedPath(asked.path, material) });
    default:
      return write({ ...asked, body: changedBody(asked.body, material) }).slice(0, material.maxBytes);
  }
};

function changedPath(path: string, material: Material): string {
  const { random } = material;
  const parts = path.split('/');
  const at = random.below(parts.length);
  const word = random.pick([
    '',
    '..',
    '%00',
    '%2f',
    'lic_fuzz',
    'psd_0011223344556677',
    '1',
    '4294967296',
    '-1',
    '1e3',
    'é',
    'a'.repeat(200),
  ]);
  const changed = random.pick([
    () => parts.map((part, i) => (i === at ? word : part)).join('/'),
    () => `${path}?after=${word}`,
    () => `${path}?limit=${word}&after=1&after=2`,
    () => Buffer.from(mutateNumbers(encoder.encode(path), material)).toString('latin1'),
    () => Buffer.from(mutateBytes(encoder.encode(path), { ...material, maxBytes: 500 })).toString('latin1'),
  ])();
  return changed.slice(0, 1_000);
}

function changedBody(body: Uint8Array, material: Material): Uint8Array {
  const { random } = material;
  const first = body[0];
  if (first === 0x7b) return random.once(6) ? mutateNumbers(body, material) : mutateJson(body, material);
  const own: Material = { ...material, other: () => read(material.other()).body };
  if (first === 0xd2 || first === 0xd1) return join(body.subarray(0, 1), mutateCbor(body.subarray(1), own));
  return mutateCbor(body, own);
}

type Answer = { readonly status: number; readonly type: string; readonly body: Buffer };

class Client {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 2 });
  readonly #url: URL;

  constructor(url: string) {
    this.#url = new URL(url);
  }

  /** Null where Node itself refuses to send such a request. */
  ask(
    method: string,
    path: string,
    headers: Record<string, string>,
    body: Uint8Array,
    again = true,
  ): Promise<Answer | null> {
    return new Promise((resolve, reject) => {
      const { hostname, port } = this.#url;
      let sent: ReturnType<typeof request>;
      try {
        sent = request({ hostname, port, path, method, headers, agent: this.#agent });
      } catch {
        resolve(null);
        return;
      }
      sent.on('error', (error) => {
        // The server may end an idle connection in the very moment in which it is used again.
        if (sent.reusedSocket && again) this.ask(method, path, headers, body, false).then(resolve, reject);
        else reject(error);
      });
      sent.on('response', (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const type = response.headers['content-type'] ?? '';
          resolve({ status: response.statusCode ?? 0, type, body: Buffer.concat(chunks) });
        });
      });
      sent.end(method === 'GET' ? undefined : body);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** @returns `accepted`, or the code of the problem. */
function outcomeOf(answer: Answer): string {
  const { status, type, body } = answer;
  if (status < 400) return ACCEPTED;
  // What Node's parser does not take for HTTP has no request that could be answered.
  if (body.toString() === '{"error":"Bad Request","message":"Client Error","statusCode":400}') return 'not HTTP';
  must(type.startsWith('application/problem+json'), `an error that is no problem: status ${status}`);
  const problem = JSON.parse(body.toString()) as { code?: unknown; status?: unknown };
  must(typeof problem.code === 'string' && isRejectionCode(problem.code), 'a problem without a code of the catalogue');
  must(Object.hasOwn(CATALOGUE, problem.code), 'a code that the catalogue has not');
  must(problem.status === status, 'a problem of another status');
  must(status < 500 || problem.code === 'try-again', `the server failed: ${problem.code}`);
  return problem.code;
}

async function asked(
  client: Client,
  input: Uint8Array,
  credentials: readonly string[],
): Promise<{ outcome: string; credential: string }> {
  const { picks, path, body } = read(input);
  const credential = credentials[(picks[0] ?? 0) % credentials.length] ?? '';
  const type = TYPES[(picks[1] ?? 0) % TYPES.length] ?? '';
  const method = METHODS[(picks[2] ?? 0) % METHODS.length] ?? 'GET';
  const answer = await client.ask(
    method,
    `/${path}`,
    {
      authorization: credential,
      ...(type === '' ? {} : { 'content-type': type }),
      'idempotency-key': `k${picks[0] ?? 0}`,
    },
    body,
  );
  return { outcome: answer === null ? 'not sent' : outcomeOf(answer), credential };
}

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.rejection.code} ${JSON.stringify(result.rejection.detail)}`);
  return result.value;
}

const SILENT = openLog('fuzz', { write: () => undefined });
const GET = 0;
const POST = 1;
const JSON_TYPE = 0;
const CBOR_TYPE = 1;

function json(credential: number, path: string, body: object): Uint8Array {
  return write({ picks: Uint8Array.of(credential, JSON_TYPE, POST), path, body: encoder.encode(JSON.stringify(body)) });
}

function cbor(credential: number, path: string, body: Uint8Array): Uint8Array {
  return write({ picks: Uint8Array.of(credential, CBOR_TYPE, POST), path, body });
}

function get(credential: number, path: string): Uint8Array {
  return write({ picks: Uint8Array.of(credential, JSON_TYPE, GET), path, body: new Uint8Array() });
}

export const serverHttpTarget: Target = {
  name: 'server-http',
  about:
    'every route of the server: known answers only, nothing without a credential, the ledger sums to zero, deposits never negative',
  words: ['server', 'protocol'],
  maxBytes: 65_536,
  mutations: [mutateRequest, mutateRequest, mutateRequest],
  open: openServer,
};

async function openServer(folder: string): Promise<Opened> {
  const at = (name: string): string => joinPath(folder, name);
  const closing: (() => Promise<void> | void)[] = [];
  const onClose = (hook: () => Promise<void> | void): void => void closing.push(hook);
  const party = { clock: systemClock, log: SILENT, onClose };
  const sockets = { socket: at('cd'), sessionSocket: at('cds'), acceptanceSocket: at('acc') };
  value(await startDevice({ data: at('device'), ...sockets }, party));
  const rpc = await connectRpc(sockets.socket);
  onClose(() => {
    rpc.close();
  });
  const { name, request: schema, answer } = CRYPTOGRAPHIC_DEVICE.publicKeys;
  const keys = value(parseValue(answer, value(await rpc.call(name, schema.toCbor({})))));
  const granting = { role: 'granting', epoch: 1, publicKey: publicKeyBytes(generateSigningKey().publicKey) } as const;
  const bundle: TrustBundle = { ...keys, keys: [...keys.keys, granting] };
  writeFileSync(at('bundle.json'), formatTrustBundle(bundle));
  const operator = randomBytes(32).toString('hex');
  const config = value(
    parseServerConfig({
      data: at('server'),
      listen: { host: '127.0.0.1', port: 0 },
      trustBundle: at('bundle.json'),
      cdSocket: sockets.socket,
      cdSessionSocket: sockets.sessionSocket,
      acceptanceSocket: sockets.acceptanceSocket,
      // Nobody listens there: what needs the authority answers `try-again`.
      authority: { url: 'http://127.0.0.1:9/', credential: '00'.repeat(32) },
      operatorCredential: operator,
      // Everything comes from one address, as fast as it can.
      rateLimits: {
        failuresPerAddress: 1_000_000,
        failuresPerName: 1_000_000,
        requestsPerPerson: 1_000_000,
        requestsPerMachine: 1_000_000,
      },
    }),
  );
  const service = value(await startServer(config, party));
  const client = new Client(service.url);
  const bearer = (credential: string): string => `Bearer ${credential}`;
  const created = await client.ask(
    'POST',
    '/v1/licensees',
    { authorization: bearer(operator), 'content-type': 'application/json' },
    encoder.encode('{"licensee":"lic_fuzz","name":"Fuzz","kind":"bureau"}'),
  );
  const invited = await client.ask(
    'POST',
    '/v1/licensees/lic_fuzz/enrolment-codes',
    { authorization: bearer(operator), 'content-type': 'application/json' },
    encoder.encode('{}'),
  );
  const { code } = JSON.parse(invited?.body.toString() ?? '') as { code: string };
  const own = (JSON.parse(created?.body.toString() ?? '') as { credential: string }).credential;
  const credentials = [bearer(operator), bearer(own), bearer('00'.repeat(32)), '', 'Basic x', `Bearer ${own}0`];
  const device = new SimulatedDevice('lic_fuzz' as LicenseeId);
  const enrolment = Buffer.from(device.enrolmentRequest()).toString('base64url');
  device.receive(1_000_000n);
  const records = [device.record(), device.record({ pieces: 3 })];
  const totals = async (): Promise<{ sum: bigint; lowest: bigint; deposits: string }> => {
    const rows = await service.database.read((tables) => tables.selectFrom('balance').selectAll().execute());
    const deposits = rows.filter(({ account }) => account.startsWith('deposit:')).map((row) => row.balance_mills);
    return {
      sum: rows.reduce((sum, row) => sum + row.balance_mills, 0n),
      lowest: deposits.reduce((least, deposit) => (deposit < least ? deposit : least), 0n),
      deposits: deposits.join(),
    };
  };
  let before = await totals();
  return {
    seeds: [
      json(0, 'v1/licensees', { licensee: 'lic_other', name: 'Other', kind: 'mailer' }),
      json(0, 'v1/licensees/lic_fuzz/deposits', { amountMills: '1000000' }),
      // Nearly all that a balance holds, under one key after the other.
      ...Array.from({ length: 9 }, (_, i) =>
        json(6 + 6 * i, 'v1/licensees/lic_fuzz/deposits', { amountMills: '999999999999999999' }),
      ),
      json(1, 'v1/licensees/lic_fuzz/customers', { customers: ['alder', 'birch'] }),
      json(1, 'v1/devices', { licensee: 'lic_fuzz', request: enrolment, code }),
      json(0, 'v1/licensees/lic_fuzz/enrolment-codes', { days: 7 }),
      json(0, 'v1/licensees/lic_fuzz/payouts', { amountMills: '1' }),
      cbor(1, 'v1/records', encodeWith(submissionSchema, { records })),
      cbor(1, 'v1/funds-requests', device.fundsRequest(1, 1_000n)),
      cbor(0, 'v1/archived-funds-grants', device.fundsRequest(1, 1_000n)),
      cbor(
        1,
        'v1/archived-records',
        encode(
          new Map([
            [
              1,
              [
                new Map([
                  [1, records[0] as Uint8Array],
                  [2, new Uint8Array(1)],
                  [3, new Uint8Array(1)],
                ]),
              ],
            ],
          ]),
        ),
      ),
      ...['accounts', 'entries?after=0&limit=5', 'grants?after=0'].map((path) =>
        get(1, `v1/licensees/lic_fuzz/${path}`),
      ),
      ...['policy', 'time', 'suspension', 'settlement', 'records/1/attestation', 'records/1/confirmation'].map((path) =>
        get(1, `v1/devices/${device.device}/${path}`),
      ),
      get(1, 'v1/programmes'),
      get(3, 'health'),
      get(3, 'openapi.json'),
      get(3, 'v1/trust-bundle'),
      get(3, 'v1/session'),
    ],
    run: async (input) => {
      const { outcome, credential } = await asked(client, input, credentials);
      const now = await totals();
      must(now.sum === 0n, 'the ledger does not sum to zero');
      must(now.lowest === 0n, 'a deposit is below zero');
      const isKnown = credential === credentials[0] || credential === credentials[1];
      must(isKnown || now.deposits === before.deposits, 'a deposit changed without a credential');
      before = now;
      return outcome;
    },
    close: async () => {
      client.close();
      for (const hook of closing.reverse()) await hook();
    },
  };
}

export const authorityHttpTarget: Target = {
  name: 'authority-http',
  about:
    'every route of the authority: known answers only, nothing without the credential, forged evidence taken in by none',
  words: ['authority', 'protocol'],
  maxBytes: 65_536,
  mutations: [mutateRequest, mutateRequest, mutateRequest],
  open: openAuthority,
};

async function openAuthority(folder: string): Promise<Opened> {
  writeFileSync(joinPath(folder, 'bundle.json'), withoutGranting(vectorText('trust-bundle.json')));
  const credential = randomBytes(32).toString('hex');
  const config = value(
    parseAuthorityConfig({
      data: folder,
      listen: { host: '127.0.0.1', port: 0 },
      trustBundle: joinPath(folder, 'bundle.json'),
      credential,
    }),
  );
  const authority = value(await startAuthority(config, () => Date.UTC(2026, 10, 22), SILENT));
  const client = new Client(authority.url);
  const credentials = [`Bearer ${credential}`, '', 'Bearer x', `Bearer ${'0'.repeat(64)}`];
  const vectors = acceptedVectors();
  const attested = vectors.filter(({ check }) => check === 'attested').map(({ input }) => input);
  const certificates = (
    JSON.parse(vectorText('device-certificates.json')) as { certificates: string[] }
  ).certificates.map((hex) => Uint8Array.from(Buffer.from(hex, 'hex')));
  const deliveries = attested.map(([record, attestation]) =>
    encodeWith(deliverySchema, {
      certificates,
      items: [{ record: record as Uint8Array, attestation: attestation as Uint8Array }],
    }),
  );
  // What the vectors hold is all that anyone authenticated.
  const most = attested.length;
  return {
    seeds: [
      ...deliveries.map((delivery) => cbor(0, 'v1/records', delivery)),
      get(0, 'v1/grants?after=0'),
      get(0, 'v1/totals?by=customer,level&standing=paid'),
      get(0, 'v1/totals?by=device&mailingDateFrom=2026-01-01'),
      get(0, 'v1/programmes'),
      get(0, 'v1/quarantine'),
      get(1, 'health'),
      get(1, 'openapi.json'),
    ],
    run: async (input) => {
      const { outcome } = await asked(client, input, credentials);
      const health = await client.ask('GET', '/health', {}, new Uint8Array());
      const { intake } = JSON.parse(health?.body.toString() ?? '{}') as { intake?: number };
      must(typeof intake === 'number' && intake <= most, 'more records were taken in than anyone authenticated');
      return outcome;
    },
    close: async () => {
      client.close();
      await authority.close();
    },
  };
}

/** The authority has a granting key of its own. */
function withoutGranting(text: string): string {
  const bundle = JSON.parse(text) as { keys: { role: string }[] };
  return JSON.stringify({ ...bundle, keys: bundle.keys.filter(({ role }) => role !== 'granting') });
}
