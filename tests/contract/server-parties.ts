/**
 * A server and a cryptographic device in the test's own process, put together as their mains do, over real local sockets, in
 * a folder of their own. The authority is a stand-in that the test scripts.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import { startService as startDevice } from '@countermark/cryptographic-device/service';
import type { Clock } from '@countermark/node-platform/clock';
import { systemClock } from '@countermark/node-platform/clock';
import { openLog } from '@countermark/node-platform/logs';
import { connectRpc, type RpcClient } from '@countermark/node-platform/rpc';
import { sha256 } from '@countermark/node-platform/verification';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { messageDigest, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { type Digest, digestOf, sameBytes, NO_DIGEST } from '@countermark/protocol/digest';
import { hex, type LicenseeId } from '@countermark/protocol/id';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import {
  deliveryAnswersSchema,
  deliverySchema,
  grantListSchema,
  recordListSchema,
  type HistoryPoint,
} from '@countermark/protocol/interfaces/delivery';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { type MessageType, unsealedMessage } from '@countermark/protocol/message';
import type { Grant } from '@countermark/protocol/messages/grant';
import type { Result } from '@countermark/protocol/result';
import { encodeWith, type Of, parseBytes, parseValue } from '@countermark/protocol/schema';
import { parseConfig } from '@countermark/server/config';
import { type Service, startService } from '@countermark/server/service';
import { formatTrustBundle, type TrustBundle } from '@countermark/verify/trust-bundle';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';

const CBOR = 'application/cbor';
const LIMITS = { maxBytes: 16 * 1024 * 1024, maxDepth: 12 };

export function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.rejection.code} ${JSON.stringify(result.rejection.detail)}`);
  return result.value;
}

/** What the stand-in authority was given, and what it grants. */
export class StandInAuthority {
  readonly granting = generateSigningKey();
  readonly credential = randomBytes(32).toString('hex');
  readonly delivered: Of<typeof deliverySchema>[] = [];
  readonly grants: { cursor: number; grant: Uint8Array; digest: Uint8Array }[] = [];
  /** Does what the test wants with a delivery; default: all accepted. */
  answer:
    | ((delivery: Of<typeof deliverySchema>) => Pick<Of<typeof deliveryAnswersSchema>, 'cursor' | 'results'> | null)
    | undefined;
  evaluatedThrough: number | undefined;
  /** Records that were asked back. */
  listedRecords = 0;
  /** Grants in one list; default: all. */
  listLength: number | undefined;
  #intake = 0;
  /** What it has taken in, and under which certificates. */
  readonly #records: { readonly record: Uint8Array; readonly attestation: Uint8Array }[] = [];
  readonly #certificates: Uint8Array[] = [];
  /** By cursors: another one each time that a cursor is reached. */
  readonly #history = new Map<number, Digest>();
  readonly #server: Server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = this.#respond(request.method ?? '', request.url ?? '', Buffer.concat(chunks));
      response.writeHead(body === null ? 503 : 200, { 'content-type': CBOR });
      response.end(body ?? '');
    });
  });

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** A grant, signed, in the list at the next place. */
  grant(of: MessageType<Grant>, message: Grant): void {
    const unsealed = unsealedMessage(of, 'signature', { holder: 'granting', epoch: 1 }, message);
    const grant = seal(unsealed, signP1363(this.granting.privateKey, toBeAuthenticated(unsealed)));
    this.grants.push({ cursor: this.grants.length + 1, grant, digest: messageDigest(unsealed, sha256) });
  }

  /** Loses what it has taken in after a cursor, as when it is restored from a backup. */
  forget(cursor: number): void {
    this.#intake = cursor;
    this.#records.length = cursor;
    for (const at of this.#history.keys()) if (at > cursor) this.#history.delete(at);
  }

  get intake(): number {
    return this.#intake;
  }

  #hasComeBy({ cursor, digest }: HistoryPoint): boolean {
    return sameBytes(this.#history.get(cursor) ?? new Uint8Array(), digest);
  }

  #gave(at: number, last: string): boolean {
    return this.grants.some(({ cursor, digest }) => cursor === at && hex(digest) === last);
  }

  #evaluated(): number {
    return this.evaluatedThrough ?? this.#intake;
  }

  #recordsAfter(url: string): Uint8Array {
    const [, at = '0', text] = /since=(\d+):(\w+)$/.exec(url) ?? [];
    const since = { cursor: Number(at), digest: text === undefined ? NO_DIGEST : digestOf(Buffer.from(text, 'hex')) };
    const continues = since.cursor === 0 || this.#hasComeBy(since);
    const items = continues ? this.#records.slice(since.cursor) : [];
    this.listedRecords += items.length;
    return encodeWith(recordListSchema, {
      certificates: items.length === 0 ? [] : this.#certificates,
      items,
      cursor: items.length === 0 ? since.cursor : this.#intake,
      history: items.length === 0 ? since.digest : (this.#history.get(this.#intake) ?? NO_DIGEST),
      continues,
    });
  }

  #respond(method: string, url: string, body: Buffer): Uint8Array | null {
    if (method === 'POST' && url === '/v1/records') {
      const delivery = value(parseBytes(deliverySchema, body, LIMITS));
      const scripted = this.answer?.(delivery);
      if (scripted === null) return null;
      const continues = delivery.since === undefined || this.#hasComeBy(delivery.since);
      if (continues) {
        this.delivered.push(delivery);
        this.#intake += delivery.items.length;
        this.#records.push(...delivery.items);
        this.#certificates.push(...delivery.certificates);
      }
      const results = continues ? delivery.items.map(() => ({ outcome: 'accepted' as const })) : [];
      const { cursor } = scripted ?? { cursor: this.#intake };
      const history = this.#history.get(cursor) ?? digestOf(randomBytes(32));
      this.#history.set(cursor, history);
      return encodeWith(deliveryAnswersSchema, { cursor, results, ...scripted, history, continues });
    }
    if (method === 'GET' && url.startsWith('/v1/records')) return this.#recordsAfter(url);
    const [, after, last, since, digest = ''] =
      /^\/v1\/grants\?after=(\d+)(?::(\w+))?(?:&since=(\d+):(\w+))?$/.exec(url) ?? [];
    if (after === undefined) return null;
    const known =
      (since === undefined ||
        this.#hasComeBy({ cursor: Number(since), digest: digestOf(Buffer.from(digest, 'hex')) })) &&
      (last === undefined || this.#gave(Number(after), last));
    if (!known) return encodeWith(grantListSchema, { grants: [], evaluatedThrough: 0, continues: false });
    const listed = this.grants.filter((grant) => grant.cursor > Number(after)).slice(0, this.listLength);
    return encodeWith(grantListSchema, {
      grants: listed as never,
      evaluatedThrough: listed.at(-1)?.cursor === this.grants.length || listed.length === 0 ? this.#evaluated() : 0,
      continues: true,
    });
  }
}

export type Parties = {
  readonly folder: string;
  readonly service: Service;
  readonly authority: StandInAuthority;
  readonly bundle: TrustBundle;
  readonly operator: string;
  readonly sessionSocket: string;
  readonly acceptanceSocket: string;
  readonly socket: string;
  /** An operation of the cryptographic device. */
  call<Request, Answer>(operation: Operation<Request, Answer>, request: Request): Promise<Result<Answer>>;
  /** Ends the server and starts it again on the same store, or on what the test makes of it in between, or with other settings. */
  restart(between?: () => void, settings?: object): Promise<void>;
  stop(): Promise<void>;
};

/**
 * Starts all of it. `write` takes each line of the log, in every detail. `database` as in the server's configuration; `settings` are further
 * ones of it; `deviceClock` only for another than `clock`; `hsm`: the keys are on a token.
 */
export async function startParties(
  options: {
    database?: string;
    clock?: Clock;
    deviceClock?: Clock;
    settings?: object;
    hsm?: HsmConfig;
    write?: (line: string) => void;
  } = {},
): Promise<Parties> {
  const folder = mkdtempSync(join(tmpdir(), 'cms-'));
  const at = (name: string): string => join(folder, name);
  const clock = options.clock ?? systemClock;
  const log = openLog(
    'test',
    options.write === undefined ? { write: () => undefined } : { write: options.write, level: 'debug' },
  );
  const closing: (() => Promise<void> | void)[] = [];
  const onClose = (hook: () => Promise<void> | void): void => void closing.push(hook);
  const sockets = { socket: at('cd.sock'), sessionSocket: at('cds.sock'), acceptanceSocket: at('acc.sock') };
  const device = value(
    await startDevice(
      { data: at('cd'), ...sockets, ...(options.hsm === undefined ? {} : { hsm: options.hsm }) },
      { clock: options.deviceClock ?? clock, log, onClose },
    ),
  );
  await device.sessions();
  const rpc: RpcClient = await connectRpc(sockets.socket);
  onClose(() => rpc.close());
  const call: Parties['call'] = async (operation, request) => {
    const answer = await rpc.call(operation.name, operation.request.toCbor(request));
    return answer.ok ? parseValue(operation.answer, answer.value) : answer;
  };
  const authority = new StandInAuthority();
  const url = await authority.start();
  onClose(() => authority.stop());
  const keys = value(await call(CRYPTOGRAPHIC_DEVICE.publicKeys, {}));
  const granting = { role: 'granting' as const, epoch: 1, publicKey: publicKeyBytes(authority.granting.publicKey) };
  const bundle: TrustBundle = { ...keys, keys: [...keys.keys, granting] };
  writeFileSync(at('trust-bundle.json'), formatTrustBundle(bundle));
  const operator = randomBytes(32).toString('hex');
  const configured = (settings: object) =>
    parseConfig({
      data: at('server'),
      ...(options.database === undefined ? {} : { database: options.database }),
      listen: { host: '127.0.0.1', port: 0 },
      trustBundle: at('trust-bundle.json'),
      cdSocket: sockets.socket,
      cdSessionSocket: sockets.sessionSocket,
      acceptanceSocket: sockets.acceptanceSocket,
      authority: { url, credential: authority.credential },
      operatorCredential: operator,
      ...options.settings,
      ...settings,
    });
  let serverHooks: (() => Promise<void> | void)[] = [];
  const startServer = async (settings: object = {}): Promise<Service> =>
    value(
      await startService(value(configured(settings)), { clock, log, onClose: (hook) => void serverHooks.push(hook) }),
    );
  const stopServer = async (): Promise<void> => {
    for (const hook of serverHooks.reverse()) await hook();
    serverHooks = [];
  };
  const parties: Parties & { service: Service } = {
    folder,
    service: await startServer(),
    authority,
    bundle,
    operator,
    ...sockets,
    call,
    restart: async (between, settings) => {
      await stopServer();
      between?.();
      parties.service = await startServer(settings);
    },
    stop: async () => {
      await stopServer();
      for (const hook of closing.reverse()) await hook();
      rmSync(folder, { recursive: true });
    },
  };
  return parties;
}

/** What an enrolment answers, base64url. */
export type Certified = { readonly certificate: string; readonly policy: string };

/** A JSON answer, as far as a test looks into it. */
export type Json = Readonly<Record<string, unknown>>;
export type HttpAnswer = {
  readonly status: number;
  readonly type: string;
  readonly body: Uint8Array;
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the test says what it expects
  readonly json: <T = Json>() => T;
};

/** Asks the server: JSON for objects, CBOR for bytes. */
export async function ask(
  parties: Parties,
  credential: string | null,
  path: string,
  body?: object | Uint8Array,
  headers: Record<string, string> = {},
): Promise<HttpAnswer> {
  const binary = body instanceof Uint8Array;
  const response = await fetch(new URL(path, parties.service.url), {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      ...(credential === null ? {} : { authorization: `Bearer ${credential}` }),
      ...(body === undefined ? {} : { 'content-type': binary ? CBOR : 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: binary ? Buffer.from(body) : JSON.stringify(body) }),
  });
  const bytes = new Uint8Array(await response.arrayBuffer());
  return {
    status: response.status,
    type: response.headers.get('content-type') ?? '',
    body: bytes,
    // eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the test says what it expects
    json: <T>() => JSON.parse(Buffer.from(bytes).toString()) as T,
  };
}

/** A licensee with a deposit; answers its credential. */
export async function licensee(
  parties: Parties,
  id: string,
  depositMills = '0',
  kind: 'mailer' | 'bureau' = 'bureau',
): Promise<string> {
  const made = await ask(parties, parties.operator, '/v1/licensees', { licensee: id, name: id, kind });
  if (depositMills !== '0') {
    const paid = await ask(
      parties,
      parties.operator,
      `/v1/licensees/${id}/deposits`,
      { amountMills: depositMills },
      { 'idempotency-key': 'first' },
    );
    if (paid.status !== 201) throw new Error(JSON.stringify(paid.json()));
  }
  return made.json<{ credential: string }>().credential;
}

/** An enrolment code that an operator issued. */
export async function invited(parties: Parties, of: string): Promise<string> {
  const issued = await ask(parties, parties.operator, `/v1/licensees/${of}/enrolment-codes`, {});
  if (issued.status !== 201) throw new Error(JSON.stringify(issued.json()));
  return issued.json<{ code: string }>().code;
}

/** An enrolled simulated device. */
export async function enrolled(
  parties: Parties,
  credential: string,
  of: string,
  authentication: 'signature' | 'mac' = 'signature',
): Promise<SimulatedDevice> {
  const device = new SimulatedDevice(of as LicenseeId, authentication);
  device.agree(parties.bundle.agreementKey);
  const request = Buffer.from(device.enrolmentRequest()).toString('base64url');
  const answer = await ask(parties, credential, '/v1/devices', {
    licensee: of,
    request,
    code: await invited(parties, of),
  });
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.json()));
  return device;
}

/** Submits records; the answers. */
export async function submit(
  parties: Parties,
  credential: string,
  records: readonly Uint8Array[],
): Promise<readonly Answer[]> {
  const answer = await ask(parties, credential, '/v1/records', encodeWith(submissionSchema, { records }));
  if (answer.status !== 200) throw new Error(`${answer.status} ${Buffer.from(answer.body).toString()}`);
  return value(parseBytes(answersSchema, answer.body, LIMITS)).answers;
}

/** Asks again and again until the answer is as wanted: events of other parties cannot be awaited. */
export async function eventually<T>(look: () => Promise<T>, wanted: (seen: T) => boolean): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    const seen = await look();
    if (wanted(seen)) return seen;
    if (attempt === 500)
      throw new Error(
        `it never came: ${JSON.stringify(seen, (_, v: unknown) => (typeof v === 'bigint' ? String(v) : v))}`,
      );
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
