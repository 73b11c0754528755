/**
 * Logs of a party: JSON lines on stderr by pino, which is loaded with the first line.
 *
 * Guarantees, by construction: only fields of the list below are ever written, only as numbers, booleans and short texts; byte
 * strings, objects, keys and whole messages cannot be. Of an error its code, text, stack and causes are written. Lines are written
 * before the call returns, so that the last words of a dying process are there.
 * Texts of errors are trusted: nobody puts a secret into one.
 */
import { createRequire } from 'node:module';
import type * as Pino from 'pino';
import { errorCode, Fault } from './fault.ts';

/** The fields that may be logged. A new one is added here, with thought. */
const FIELDS = [
  'address',
  'amountMills',
  'attempt',
  'batch',
  'bytes',
  'code',
  'count',
  'customer',
  'delayMs',
  'detail',
  'device',
  'digest',
  'durationMs',
  'exitCode',
  'fault',
  'grant',
  'index',
  'job',
  'licensee',
  'method',
  'operation',
  'path',
  'pieceNumber',
  'pieces',
  'pid',
  'port',
  'postageMills',
  'programme',
  'reason',
  'requestId',
  'route',
  'sequence',
  'session',
  'state',
  'status',
  'version',
] as const;

type LogField = (typeof FIELDS)[number];

/** What a line may carry besides its event. */
export type LogFields = Partial<Readonly<Record<LogField, string | number | bigint | boolean>>>;

/** A party's log. Events are short fixed texts in the past tense: what varies goes into fields. */
export interface Log {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  /** Something broke. */
  error(event: string, thrown: unknown, fields?: LogFields): void;
}

/** Where and what to log; both are for tests and the operator's `logLevel`. */
export interface LogOptions {
  readonly level?: 'debug' | 'info' | 'warn' | 'error';
  /** Takes each line. Default: stderr, synchronously. */
  readonly write?: (line: string) => void;
}

const TEXT_LENGTH_MAX = 500;
const CAUSES_MAX = 5;

/** The log of the party of that name. */
export function openLog(party: string, options: LogOptions = {}): Log {
  let opened: Pino.Logger | undefined;
  const logger = (): Pino.Logger => {
    opened ??= load(party, options);
    return opened;
  };
  return {
    debug: (event, fields) => {
      logger().debug(allowed(fields), event);
    },
    info: (event, fields) => {
      logger().info(allowed(fields), event);
    },
    warn: (event, fields) => {
      logger().warn(allowed(fields), event);
    },
    error: (event, thrown, fields) => {
      logger().error({ ...allowed(fields), error: described(thrown, CAUSES_MAX) }, event);
    },
  };
}

function load(party: string, { level = 'info', write }: LogOptions): Pino.Logger {
  const { pino } = createRequire(import.meta.url)('pino') as typeof Pino;
  const options = { level, base: { party, pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime };
  return write === undefined ? pino(options, pino.destination({ dest: 2, sync: true })) : pino(options, { write });
}

function allowed(fields: LogFields = {}): Record<string, string | number | boolean> {
  const line: Record<string, string | number | boolean> = {};
  for (const name of FIELDS) {
    const value: unknown = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (typeof value === 'string') line[name] = value.slice(0, TEXT_LENGTH_MAX);
    else if (typeof value === 'number' || typeof value === 'boolean') line[name] = value;
    else if (typeof value === 'bigint') line[name] = value.toString();
  }
  return line;
}

function described(thrown: unknown, causesLeft: number): Record<string, unknown> {
  if (!(thrown instanceof Error)) return { message: String(thrown).slice(0, TEXT_LENGTH_MAX) };
  const code = errorCode(thrown);
  return {
    ...(code === undefined ? {} : { code }),
    ...(thrown instanceof Fault ? { retry: thrown.retry } : {}),
    message: thrown.message,
    stack: thrown.stack,
    ...(thrown.cause === undefined || causesLeft === 0 ? {} : { cause: described(thrown.cause, causesLeft - 1) }),
  };
}
