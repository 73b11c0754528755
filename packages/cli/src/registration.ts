/**
 * What the demonstration's operator does at the server: registers the licensee, pays its deposit in, and issues an enrolment code.
 *
 * The first two can be done again without a second effect: the deposit stands under one Idempotency-Key.
 */
import { Fault } from '@countermark/node-platform/fault';
import { unsafeUrl } from '@countermark/node-platform/transport-security';
import { isRejectionCode, type RejectionDetail } from '@countermark/protocol/rejection';
import { refuseCommand } from './failure.ts';

/** The server, and the credential with which it is asked. */
export type ServerAccess = { readonly url: string; readonly credential: string };

/** Registers the licensee; returns the credential of its hosts. */
export async function registerLicensee(
  server: ServerAccess,
  licensee: string,
  kind: 'mailer' | 'bureau',
): Promise<string> {
  const name = kind === 'bureau' ? 'Demonstration bureau' : 'Demonstration mailer';
  const { credential } = (await askServer(server, 'POST', '/v1/licensees', { licensee, name, kind })) as {
    readonly credential?: unknown;
  };
  if (typeof credential !== 'string') {
    throw new Fault(
      'registration-incomplete',
      `the server knows ${licensee} already and gives its credential only once: restore credentials.json from a backup, or begin in another data folder`,
      { retry: 'never' },
    );
  }
  return credential;
}

/** Pays the demonstration's deposit in, once. */
export async function payDeposit(server: ServerAccess, licensee: string, amountMills: bigint): Promise<void> {
  await askServer(
    server,
    'POST',
    `/v1/licensees/${licensee}/deposits`,
    { amountMills: amountMills.toString() },
    `demo-deposit-${licensee}`,
  );
}

/** A code with which the licensee enrols one new device. */
export async function issueEnrolmentCode(server: ServerAccess, licensee: string): Promise<string> {
  const { code } = (await askServer(server, 'POST', `/v1/licensees/${licensee}/enrolment-codes`, {})) as {
    readonly code: string;
  };
  return code;
}

/** Asks the server. @throws Refused with the code of its problem report, or `insecure-address`; Fault where it cannot be reached */
export async function askServer(
  server: ServerAccess,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
  idempotencyKey?: string,
): Promise<unknown> {
  const open = unsafeUrl(server.url, 'The server');
  if (open !== null) refuseCommand(open.code, open.detail);
  let response: Response;
  try {
    response = await fetch(new URL(path, server.url), {
      method,
      headers: {
        authorization: `Bearer ${server.credential}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(30_000),
    });
  } catch (cause) {
    throw new Fault('server-unreachable', `the server at ${server.url} does not answer`, { retry: 'later', cause });
  }
  const text = await response.text();
  const answer = parsed(text);
  if (response.ok) return answer;
  const problem = (answer ?? {}) as {
    code?: unknown;
    detail?: unknown;
    details?: unknown;
    title?: unknown;
  };
  if (typeof problem.code === 'string' && isRejectionCode(problem.code)) {
    const details = typeof problem.details === 'object' ? (problem.details as RejectionDetail) : {};
    refuseCommand(problem.code, details);
  }
  throw new Fault(
    'server-refused',
    `the server answered ${method} ${path} with ${response.status}: ${text.slice(0, 300)}`,
    { retry: 'never' },
  );
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
