/**
 * Asking the server over HTTP, with the licensee's credential, by the platform's own `fetch`.
 *
 * Guarantees: answers are bounded and parsed; an answer of the catalogue (`application/problem+json`) is a rejection; anything
 * else that goes wrong is the fault `server-unreachable`, worth another try. Nothing is repeated here: `outbox` and `settlement`
 * decide when.
 */
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import {
  type Answer,
  answersSchema,
  MAX_RECORD_BYTES,
  MAX_SUBMISSION,
  submissionSchema,
} from '@countermark/protocol/interfaces/answer';
import { archivedCertificatesSchema } from '@countermark/protocol/interfaces/archived-certificates';
import type { MillsText } from '@countermark/protocol/interfaces/host';
import { type Rejection, type RejectionDetail, isRejectionCode, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { bytes, encodeWith, field, list, parseBytes, struct } from '@countermark/protocol/schema';
import { FRAME_LIMITS } from '@countermark/protocol/cbor';

const TIMEOUT_MS = 30_000;
const ANSWER_BYTES_MAX = 8 * 1024 * 1024;
const CBOR = 'application/cbor';

export type Settlement = {
  readonly logged: number;
  readonly delivered: number;
  readonly evaluated: number;
  readonly grantsCursor: number;
  readonly drawableMills: MillsText;
  /** A fork is known, or the device was withdrawn: its next policy may let it frank no more. */
  readonly suspended: boolean;
  /** The newest policy that the server has signed for the device. */
  readonly policyVersion: number;
  /** Of that policy, in hex; empty for none. */
  readonly policyDigest: string;
};

/** Records with what the server itself said of them, as the archive has them. */
const archiveSchema = struct('archive', {
  items: field(
    1,
    list(
      struct('archive-item', {
        record: field(1, bytes(1, MAX_RECORD_BYTES)),
        attestation: field(2, bytes(1, 4_096)),
        confirmation: field(3, bytes(1, 4_096)),
      }),
      MAX_SUBMISSION,
      1,
    ),
  ),
});
export type ArchivedRecord = {
  readonly record: Uint8Array;
  readonly attestation: Uint8Array;
  readonly confirmation: Uint8Array;
};

/** What the device installs, and its X.509 certificate (DER). */
export type EnrolledDevice = {
  readonly certificate: Uint8Array;
  readonly policy: Uint8Array;
  readonly identityCertificate?: Uint8Array;
};

export type ServerClientOptions = { readonly url: string; readonly credential: string };

export class ServerClient {
  readonly url: string;
  readonly #credential: string;

  constructor({ url, credential }: ServerClientOptions) {
    this.url = url;
    this.#credential = credential;
  }

  async health(): Promise<void> {
    await this.#fetch('GET', '/health');
  }

  /** Enrols the device by its own requests; a new one needs a code. */
  async enrol(
    licensee: LicenseeId,
    { request, certificateRequest }: { readonly request: Uint8Array; readonly certificateRequest: Uint8Array },
    code?: string,
  ): Promise<Result<EnrolledDevice>> {
    const answer = await this.#json('POST', '/v1/devices', {
      licensee,
      request: base64url(request),
      certificateRequest: base64url(certificateRequest),
      ...(code === undefined ? {} : { code }),
    });
    if (!answer.ok) return answer;
    const { certificate, policy, identityCertificate } = answer.value as Record<string, unknown>;
    return accept({
      certificate: bytesOf(certificate, 'certificate'),
      policy: bytesOf(policy, 'policy'),
      ...(identityCertificate === undefined
        ? {}
        : { identityCertificate: bytesOf(identityCertificate, 'identityCertificate') }),
    });
  }

  /** An X.509 certificate of the device's signature key (DER), by the device's PKCS#10 request, and what leads to it from older authorities. */
  async identify(
    device: DeviceId,
    request: Uint8Array,
  ): Promise<Result<{ certificate: Uint8Array; chain: readonly Uint8Array[] }>> {
    const path = `/v1/devices/${device}/identity-certificate`;
    const answer = await this.#json('POST', path, { request: base64url(request) });
    if (!answer.ok) return answer;
    const { certificate, chain } = answer.value as { certificate?: unknown; chain?: unknown };
    return accept({
      certificate: bytesOf(certificate, 'certificate'),
      chain: Array.isArray(chain) ? chain.map((one) => bytesOf(one, 'chain')) : [],
    });
  }

  async registerCustomers(licensee: LicenseeId, customers: readonly string[]): Promise<Result<unknown>> {
    return this.#json('POST', `/v1/licensees/${licensee}/customers`, { customers });
  }

  /** The device's policy, never of a version below `above`. */
  policy(device: DeviceId, above = 0): Promise<Result<Uint8Array>> {
    return this.#bytes('GET', `/v1/devices/${device}/policy?above=${above}`);
  }

  time(device: DeviceId): Promise<Result<Uint8Array>> {
    return this.#bytes('GET', `/v1/devices/${device}/time`);
  }

  /** Submits records; an answer for each, in order. */
  async submit(records: readonly Uint8Array[]): Promise<Result<readonly Answer[]>> {
    const body = encodeWith(submissionSchema, { records });
    const answered = await this.#bytes('POST', '/v1/records', body);
    if (!answered.ok) return answered;
    const answers = parseBytes(answersSchema, answered.value, FRAME_LIMITS);
    if (!answers.ok) throw malformed('/v1/records', answers.rejection.code);
    if (answers.value.answers.length !== records.length) throw malformed('/v1/records', 'another number of answers');
    return accept(answers.value.answers);
  }

  /** Gives a server that lost them records back which it confirmed before; answers as of a submission. */
  async restore(items: readonly ArchivedRecord[]): Promise<Result<readonly Answer[]>> {
    const answered = await this.#bytes('POST', '/v1/archived-records', encodeWith(archiveSchema, { items }));
    if (!answered.ok) return answered;
    const answers = parseBytes(answersSchema, answered.value, FRAME_LIMITS);
    if (!answers.ok) throw malformed('/v1/archived-records', answers.rejection.code);
    return accept(answers.value.answers);
  }

  /** Gives a server that lost them certificates back which it issued, of every key epoch. */
  restoreCertificates(licensee: LicenseeId, certificates: readonly Uint8Array[]): Promise<Result<unknown>> {
    const body = encodeWith(archivedCertificatesSchema, { licensee, certificates });
    return this.#bytes('POST', '/v1/archived-certificates', body);
  }

  attestation(device: DeviceId, sequence: number): Promise<Result<Uint8Array>> {
    return this.recordPart(device, sequence, 'attestation');
  }

  /** What the server has stored of a record. Rejection: `unknown-record`. */
  recordPart(
    device: DeviceId,
    sequence: number,
    part: 'record' | 'attestation' | 'confirmation' | 'certificate',
  ): Promise<Result<Uint8Array>> {
    return this.#bytes('GET', `/v1/devices/${device}/records/${sequence}/${part}`);
  }

  /** Gives a server that lost it a funds grant back. */
  restoreFunds(grant: Uint8Array): Promise<Result<unknown>> {
    return this.#bytes('POST', '/v1/archived-funds-grants', grant);
  }

  fundsRequest(request: Uint8Array): Promise<Result<Uint8Array>> {
    return this.#bytes('POST', '/v1/funds-requests', request);
  }

  /** What the licensee's deposit holds; below zero where it owes. */
  async deposit(licensee: LicenseeId): Promise<Result<bigint>> {
    const answer = await this.#json('GET', `/v1/licensees/${licensee}/accounts`);
    if (!answer.ok) return answer;
    const { accounts } = answer.value as { accounts?: unknown };
    if (!Array.isArray(accounts)) throw malformed('accounts', 'no list');
    const own = (accounts as readonly { account?: unknown; balanceMills?: unknown }[]).find(
      ({ account }) => account === `deposit:${licensee}`,
    );
    if (own === undefined) return accept(0n);
    if (typeof own.balanceMills !== 'string' || !/^-?\d{1,19}$/.test(own.balanceMills)) {
      throw malformed('accounts', 'balanceMills');
    }
    return accept(BigInt(own.balanceMills));
  }

  async settlement(device: DeviceId): Promise<Result<Settlement>> {
    const answer = await this.#json('GET', `/v1/devices/${device}/settlement`);
    if (!answer.ok) return answer;
    const { logged, delivered, evaluated, grantsCursor, drawableMills, suspended, policyVersion, policyDigest } =
      answer.value as Record<string, unknown>;
    const whole = (value: unknown, name: string): number => {
      const number = Number(value);
      if (!Number.isSafeInteger(number) || number < 0) throw malformed('settlement', name);
      return number;
    };
    if (typeof drawableMills !== 'string' || !/^\d+$/.test(drawableMills))
      throw malformed('settlement', 'drawableMills');
    if (typeof policyDigest !== 'string' || !/^([0-9a-f]{64})?$/.test(policyDigest))
      throw malformed('settlement', 'policyDigest');
    return accept({
      logged: whole(logged, 'logged'),
      delivered: whole(delivered, 'delivered'),
      evaluated: whole(evaluated, 'evaluated'),
      grantsCursor: whole(grantsCursor, 'grantsCursor'),
      drawableMills,
      suspended: suspended === true,
      policyVersion: whole(policyVersion ?? 0, 'policyVersion'),
      policyDigest,
    });
  }

  async grants(
    licensee: LicenseeId,
    after: number,
  ): Promise<Result<readonly { readonly cursor: number; readonly grant: Uint8Array }[]>> {
    const answer = await this.#json('GET', `/v1/licensees/${licensee}/grants?after=${after}`);
    if (!answer.ok) return answer;
    const { grants } = answer.value as { grants?: unknown };
    if (!Array.isArray(grants)) throw malformed('grants', 'no list');
    return accept(
      (grants as readonly { cursor?: unknown; grant?: unknown }[]).map(({ cursor, grant }) => {
        const position = Number(cursor);
        if (!Number.isSafeInteger(position)) throw malformed('grants', 'cursor');
        return { cursor: position, grant: bytesOf(grant, 'grant') };
      }),
    );
  }

  /** The authority's programmes as its own JSON. */
  programmes(): Promise<Result<unknown>> {
    return this.#json('GET', '/v1/programmes');
  }

  /**
   * Opens the way to the cryptographic device: an HTTP connection that becomes a stream of raw bytes.
   * Rejections: those of the server. Fault: `server-unreachable`.
   */
  openSession(): Promise<Result<Duplex>> {
    const url = new URL('/v1/session', this.url);
    const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
    return new Promise((resolve, reject) => {
      const failed = (cause: unknown): void => {
        reject(unreachable(cause));
      };
      const asked = send(url, {
        agent: false,
        timeout: TIMEOUT_MS,
        headers: {
          connection: 'Upgrade',
          upgrade: 'countermark-session',
          authorization: `Bearer ${this.#credential}`,
        },
      });
      asked.on('error', failed);
      asked.on('timeout', () => {
        asked.destroy(new Error('no answer in time'));
      });
      asked.on('upgrade', (_response, socket, head) => {
        socket.setTimeout(0);
        // Until the relay takes it over; what breaks then is seen as its end.
        socket.on('error', () => undefined);
        if (head.length > 0) socket.unshift(head);
        resolve(accept(socket));
      });
      asked.on('response', (response) => {
        const chunks: Buffer[] = [];
        let length = 0;
        response.on('data', (chunk: Buffer) => {
          length += chunk.length;
          if (length < 65_536) chunks.push(chunk);
        });
        response.on('error', failed);
        response.on('end', () => {
          const refused = refusalIn(response.statusCode ?? 0, Buffer.concat(chunks).toString('utf8'));
          if (refused === null) failed(new Error(`the server answered ${response.statusCode ?? 0} to a session`));
          else resolve(refuse(refused));
        });
      });
      asked.end();
    });
  }

  async #json(method: string, path: string, body?: unknown): Promise<Result<unknown>> {
    const answered = await this.#fetch(
      method,
      path,
      body === undefined ? undefined : { type: 'application/json', bytes: Buffer.from(JSON.stringify(body)) },
    );
    if (!answered.ok) return answered;
    try {
      return accept(JSON.parse(Buffer.from(answered.value).toString('utf8')) as unknown);
    } catch (error) {
      throw malformed(path, errorText(error));
    }
  }

  #bytes(method: string, path: string, body?: Uint8Array): Promise<Result<Uint8Array>> {
    return this.#fetch(method, path, body === undefined ? undefined : { type: CBOR, bytes: body });
  }

  async #fetch(
    method: string,
    path: string,
    body?: { readonly type: string; readonly bytes: Uint8Array },
  ): Promise<Result<Uint8Array>> {
    let status: number;
    let answer: Uint8Array;
    try {
      const response = await fetch(`${this.url}${path}`, {
        method,
        headers: {
          authorization: `Bearer ${this.#credential}`,
          ...(body === undefined ? {} : { 'content-type': body.type }),
        },
        ...(body === undefined ? {} : { body: body.bytes as Uint8Array<ArrayBuffer> }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      status = response.status;
      answer = await bounded(response);
    } catch (error) {
      throw unreachable(error);
    }
    if (status >= 200 && status < 300) return accept(answer);
    const refused = refusalIn(status, Buffer.from(answer).toString('utf8'));
    if (refused !== null) return refuse(refused);
    throw new Fault('server-unreachable', `the server answered ${method} ${path} with status ${status}`, {
      retry: status >= 500 || status === 429 ? 'later' : 'never',
    });
  }
}

async function bounded(response: Response): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  if (response.body !== null) {
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      length += chunk.length;
      if (length > ANSWER_BYTES_MAX) throw new Error('the answer is too long');
      chunks.push(chunk);
    }
  }
  return Buffer.concat(chunks, length);
}

/** The rejection that an answer is, or null; too many requests are no refusal of what was asked, only of asking it now. */
function refusalIn(status: number, text: string): Rejection | null {
  const refused = problemOf(text);
  if (status !== 429) return refused;
  return rejection('try-again', { reason: String(refused?.detail['said'] ?? 'too many requests') });
}

/** The rejection in a problem (RFC 9457), or null where it is none of the catalogue. */
function problemOf(text: string) {
  let problem: unknown;
  try {
    problem = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof problem !== 'object' || problem === null) return null;
  const { code, detail, details } = problem as { code?: unknown; detail?: unknown; details?: unknown };
  if (typeof code !== 'string' || !isRejectionCode(code) || code === 'internal-fault') return null;
  // Words for people only: they are passed on as they were said.
  const said = typeof detail === 'string' ? { said: detail, reason: detail } : {};
  return rejection(code, { ...said, ...namedIn(details) });
}

/** What the sentences of a problem name: texts and numbers. */
function namedIn(details: unknown): RejectionDetail {
  if (typeof details !== 'object' || details === null) return {};
  return Object.fromEntries(
    Object.entries(details).filter(
      (entry): entry is [string, string | number] => typeof entry[1] === 'string' || typeof entry[1] === 'number',
    ),
  );
}

function base64url(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64url');
}

function bytesOf(value: unknown, name: string): Uint8Array {
  if (typeof value !== 'string' || !/^[A-Za-z0-9_-]+$/.test(value)) throw malformed(name, 'no base64url');
  return Buffer.from(value, 'base64url');
}

function malformed(where: string, what: string): Fault {
  return new Fault('server-malformed', `the server's answer (${where}) is not as its interface says: ${what}`, {
    retry: 'later',
  });
}

function unreachable(cause: unknown): Fault {
  const inner = cause instanceof Error && cause.cause !== undefined ? cause.cause : cause;
  return new Fault('server-unreachable', `the server cannot be reached: ${errorText(inner)}`, {
    retry: 'later',
    cause,
  });
}
