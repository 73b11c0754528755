/**
 * How a command fails: a rejection of the catalogue, or a fault, as a text for people, a JSON object and an exit code.
 *
 * Guarantees that every failure says what happened, what state it left and what to do now, and ends with the catalogue's exit
 * code; a fault that nobody foresaw ends with 70 and its stack.
 */
import { errorCode, errorText, Fault } from '@countermark/node-platform/fault';
import type { PartyExit } from '@countermark/node-platform/supervision';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import {
  describeRejection,
  EXIT,
  type Rejection,
  type RejectionCode,
  type RejectionDetail,
  rejection,
} from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';

/** A rejection on its way to the command's end. */
export class Refused extends Error {
  readonly rejection: Rejection;

  constructor(refused: Rejection) {
    super(describeRejection(refused));
    this.name = 'Refused';
    this.rejection = refused;
  }
}

/** A command's failure. */
export type Failure = {
  readonly code: string;
  readonly message: string;
  readonly exit: number;
  readonly detail: RejectionDetail;
  /** Of what nobody foresaw. */
  readonly stack?: string;
};

/** The accepted value. @throws Refused */
export function valueOf<T>(result: Result<T>): T {
  if (!result.ok) throw new Refused(result.rejection);
  return result.value;
}

/** Ends the command with this rejection. @throws Refused */
export function refuseCommand(code: RejectionCode, detail: RejectionDetail): never {
  throw new Refused(rejection(code, detail));
}

/** Ends the command because it was called wrongly. @throws Refused */
export function refuseUsage(reason: string): never {
  refuseCommand('usage', { reason });
}

/** Anything thrown, as a failure. */
export function failureOf(thrown: unknown): Failure {
  if (thrown instanceof Refused) {
    const { code, detail } = thrown.rejection;
    return { code, message: thrown.message, exit: CATALOGUE[code].exit, detail };
  }
  if (thrown instanceof Fault) {
    const away = thrown.code === 'internal-fault' ? AWAY[String(thrown.cause)] : undefined;
    const refused = refusalOf(thrown);
    // A party's own words say what to do; which party it was stands behind them.
    if (refused !== undefined) {
      const { code, detail } = refused;
      return { code, message: thrown.message, exit: CATALOGUE[code].exit, detail };
    }
    if (away !== undefined) return failureOf(new Refused(rejection('try-again', { reason: away })));
    const message = `${sentence(thrown.message)} What was answered before is on disk${thrown.retry === 'never' ? '' : ': run the same command again'}.`;
    return { code: thrown.code, message, exit: exitOfFault(thrown), detail: {} };
  }
  return {
    code: errorCode(thrown) ?? 'fault',
    message: sentence(errorText(thrown)),
    exit: EXIT.fault,
    detail: {},
    ...(thrown instanceof Error && thrown.stack !== undefined ? { stack: thrown.stack } : {}),
  };
}

/** Why a party did not start, where it said so itself. */
function refusalOf({ code, cause }: Fault): Rejection | undefined {
  if (code !== 'party-not-ready' || typeof cause !== 'object' || cause === null) return undefined;
  return (cause as Partial<PartyExit>).rejection;
}

/** A party that refuses to start ends with an exit code of the catalogue: it is this command's too. */
function exitOfFault(fault: Fault): number {
  const { cause } = fault;
  const code: unknown = typeof cause === 'object' && cause !== null && 'code' in cause ? cause.code : undefined;
  if (fault.code === 'party-not-ready' && CATALOGUE_EXITS.some((exit) => exit === code)) return Number(code);
  if (fault.code === 'internal-fault' && fault.retry !== 'never') return EXIT.unconfirmed;
  return FAULT_EXITS[fault.code] ?? EXIT.fault;
}

/** Faults in another process that only say that a third one does not answer. */
const AWAY: Readonly<Record<string, string>> = {
  'server-unreachable': 'the server cannot be reached',
  'peer-not-running': 'a process that is needed is not running',
  'connection-broken': 'a process that is needed ended in the middle',
};

const CATALOGUE_EXITS: readonly unknown[] = [EXIT.usage, EXIT.input, EXIT.funds, EXIT.unconfirmed, EXIT.locked];

const FAULT_EXITS: Readonly<Record<string, number>> = {
  'socket-in-use': EXIT.locked,
  'peer-not-running': EXIT.unconfirmed,
  'connection-broken': EXIT.unconfirmed,
  'connection-timed-out': EXIT.unconfirmed,
  'call-timed-out': EXIT.unconfirmed,
};

function sentence(text: string): string {
  const whole = text.slice(0, 1).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
