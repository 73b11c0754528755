/**
 * The device's end of the session (claims 4, 16): mutual TLS 1.3 as client over a connection that the host relays.
 *
 * Guarantees: records go only to the cryptographic device that the device's own certificate names (issuer and name are
 * pinned); a record supplied by the host is sent only if it equals the device's own; confirmations are verified by the
 * device and are the only thing that deletes. Records and confirmations are the same bytes as without a session.
 * A session that fails loses nothing: everything can be sent again.
 */
import { X509Certificate } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import { errorText, Fault } from '@countermark/node-platform/fault';
import { type RpcClient, rpcOver } from '@countermark/node-platform/rpc';
import { certificatePem, openSession } from '@countermark/node-platform/tls-ends';
import { listenPrivately } from '@countermark/node-platform/unix-sockets';
import type { CborValue } from '@countermark/protocol/cbor';
import { sameBytes } from '@countermark/protocol/digest';
import { type Answer, answersSchema, MAX_SUBMISSION, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import type { Device } from './device.ts';

/** The subject name of the session's server end; whoever else its issuer certified is not spoken to. */
const SERVER_NAME = 'cryptographic-device';
/** Bytes of records in one submission: a frame holds 4 MiB. */
const SUBMISSION_BYTES = 3 * 1024 * 1024;
const CONNECTION_WAIT_MS = 30_000;
const ANSWER_WAIT_MS = 60_000;
/** Connections that may wait for a `send`. */
const WAITING_MAX = 4;

export type SendItem = { readonly sequence: number; readonly record?: Uint8Array };
export type SendResult = {
  readonly sequence: number;
  readonly confirmation?: Uint8Array;
  readonly attestation?: Uint8Array;
  readonly rejection?: Rejection;
};

/** Gives out connections to the session socket, each once: to the send that waits longest, or to the next one. */
export type SessionSocket = {
  /** The next connection, or null after `waitMs`. */
  next(waitMs: number): Promise<Socket | null>;
  close(): Promise<void>;
};

/** Listens for the host's relayed connections. Faults: those of `listenPrivately`. */
export async function listenForSessions(path: string): Promise<SessionSocket> {
  const open = new Set<Socket>();
  const waiting: Socket[] = [];
  const sends: ((connection: Socket | null) => void)[] = [];
  const server: Server = createServer((socket) => {
    open.add(socket);
    const forget = (): void => {
      open.delete(socket);
      const at = waiting.indexOf(socket);
      if (at !== -1) waiting.splice(at, 1);
    };
    // Stays for the connection's life: a socket without an error handler takes the process down.
    socket.on('error', forget);
    socket.on('close', forget);
    const send = sends.shift();
    if (send !== undefined) send(socket);
    else if (waiting.length < WAITING_MAX) waiting.push(socket);
    else socket.destroy();
  });
  await listenPrivately(server, path);
  return {
    next: (waitMs) => {
      const connection = waiting.shift();
      if (connection !== undefined) return Promise.resolve(connection);
      return new Promise((resolve) => {
        const give = (given: Socket | null): void => {
          clearTimeout(timer);
          const at = sends.indexOf(give);
          if (at !== -1) sends.splice(at, 1);
          resolve(given);
        };
        const timer = setTimeout(give, waitMs, null);
        sends.push(give);
      });
    },
    close: async () => {
      for (const give of [...sends]) give(null);
      for (const socket of [...open]) socket.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
      });
    },
  };
}

/**
 * Sends records in one session over the next connection. Answers for each item: confirmation (applied), or why not.
 * Rejections of the whole: `wrong-state` (not enrolled), `session-clock`, `session-failed`.
 */
export async function sendInSession(
  device: Device,
  sessions: SessionSocket,
  items: readonly SendItem[],
  waitMs: number = CONNECTION_WAIT_MS,
): Promise<Result<readonly SendResult[]>> {
  const certificates = device.sessionCredentials();
  if (!certificates.ok) return certificates;
  const outdated = outsideItsDates(certificates.value.certificate);
  if (outdated !== null) return refuse(outdated);
  const results = new Map<number, SendResult>();
  const outgoing: { readonly sequence: number; readonly record: Uint8Array }[] = [];
  for (const item of items) {
    const own = ownRecord(device, item);
    if (own.ok) outgoing.push({ sequence: item.sequence, record: own.value });
    else results.set(item.sequence, { sequence: item.sequence, rejection: own.rejection });
  }
  if (outgoing.length > 0) {
    const connection = await sessions.next(waitMs);
    if (connection === null) {
      return refuse(
        rejection('session-failed', { reason: `no connection came within ${Math.round(waitMs / 1000)} s` }),
      );
    }
    const session = await openSession(connection, {
      credentials: {
        privateKey: certificates.value.privateKey,
        certificate: certificatePem(certificates.value.certificate),
        issuers: [certificatePem(certificates.value.authority)],
      },
      serverName: SERVER_NAME,
    });
    if (!session.ok) return session;
    const caller = rpcOver(session.value, { timeoutMs: ANSWER_WAIT_MS });
    try {
      let answered = 0;
      for (const part of submissions(outgoing)) {
        const answers = await submit(caller, part);
        if (!answers.ok && answered === 0) return answers;
        for (const [i, { sequence }] of part.entries()) {
          // What was confirmed before the session broke off is applied and told; the rest waits.
          results.set(
            sequence,
            answers.ok ? applied(device, sequence, answers.value[i]) : { sequence, rejection: answers.rejection },
          );
        }
        answered += part.length;
      }
    } finally {
      caller.close();
    }
  }
  return accept(items.map(({ sequence }) => results.get(sequence) ?? { sequence }));
}

/** The device's own record, which a supplied one must equal. */
function ownRecord(device: Device, item: SendItem): Result<Uint8Array> {
  const own = device.record(item.sequence);
  if (!own.ok || item.record === undefined) return own;
  return sameBytes(own.value, item.record) ? own : refuse(rejection('record-differs', { sequence: item.sequence }));
}

/** In order, as many records at once as a submission may have. */
function submissions<T extends { readonly record: Uint8Array }>(items: readonly T[]): T[][] {
  const parts: T[][] = [];
  let bytes = 0;
  for (const item of items) {
    const last = parts.at(-1);
    bytes += item.record.length;
    if (last === undefined || last.length === MAX_SUBMISSION || bytes > SUBMISSION_BYTES) {
      parts.push([item]);
      bytes = item.record.length;
    } else {
      last.push(item);
    }
  }
  return parts;
}

async function submit(
  caller: RpcClient,
  items: readonly { readonly record: Uint8Array }[],
): Promise<Result<readonly Answer[]>> {
  const parameters = submissionSchema.toCbor({ records: items.map(({ record }) => record) });
  let answered: Result<CborValue>;
  try {
    answered = await caller.call('submit', parameters);
  } catch (error) {
    // The session broke, not the device.
    if (!(error instanceof Fault)) throw error;
    return refuse(rejection('session-failed', { reason: errorText(error) }));
  }
  if (!answered.ok) return answered;
  const answers = parseValue(answersSchema, answered.value);
  if (!answers.ok) return answers;
  return answers.value.answers.length === items.length
    ? accept(answers.value.answers)
    : refuse(rejection('session-failed', { reason: 'another number of answers than records' }));
}

/** What an answer does: only a confirmation that the device verifies itself changes anything. */
function applied(device: Device, sequence: number, answer: Answer | undefined): SendResult {
  const attestation = answer?.attestation === undefined ? {} : { attestation: answer.attestation };
  if (answer?.confirmation === undefined) {
    return { sequence, ...attestation, ...(answer?.rejection === undefined ? {} : { rejection: answer.rejection }) };
  }
  const confirmed = device.confirm(answer.confirmation);
  if (!confirmed.ok) return { sequence, ...attestation, rejection: confirmed.rejection };
  // Authentic, but of another record: that one was rightly deleted, this one was not confirmed.
  if (confirmed.value.sequence !== sequence) {
    return { sequence, ...attestation, rejection: rejection('confirmation-mismatch', { sequence }) };
  }
  return { sequence, ...attestation, confirmation: answer.confirmation };
}

/**
 * The server end would only break the connection off for a certificate that is outside its dates: said here instead.
 * This machine's clock is used for nothing else.
 */
function outsideItsDates(der: Uint8Array): Rejection | null {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(der);
  } catch (error) {
    return rejection('session-failed', {
      reason: `the certificate of the session key cannot be read (${errorText(error)})`,
    });
  }
  const now = Date.now();
  if (now >= Date.parse(certificate.validFrom) && now <= Date.parse(certificate.validTo)) return null;
  return rejection('session-clock', {
    reason: `this device's is valid from ${certificate.validFrom} to ${certificate.validTo}`,
  });
}
