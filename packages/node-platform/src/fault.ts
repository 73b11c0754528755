/**
 * A fault: something broke (disk, socket, process), as against a rejection, which is a normal answer and a value.
 *
 * A fault carries a code that callers can branch on, its cause, and whether trying again can help. It is never used for what a
 * peer sent wrongly, nor for broken invariants (those are assertions).
 */

/** Whether a retry can help: `never` (someone must act), `later` (after a wait), `now` (at once, for instance after reconnecting). */
export type Retry = 'never' | 'later' | 'now';

/** What a fault may be given besides code and text. */
export interface FaultOptions {
  readonly retry: Retry;
  readonly cause?: unknown;
}

/** Thrown when something broke. The message says in words what happened and what to do. */
export class Fault extends Error {
  readonly code: string;
  readonly retry: Retry;

  constructor(code: string, message: string, options: FaultOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'Fault';
    this.code = code;
    this.retry = options.retry;
  }
}

/** The `code` of anything thrown (Node's system errors, SQLite's errors, faults), or undefined. */
export function errorCode(thrown: unknown): string | undefined {
  if (typeof thrown !== 'object' || thrown === null || !('code' in thrown)) return undefined;
  return typeof thrown.code === 'string' ? thrown.code : undefined;
}

/** The text of anything thrown. */
export function errorText(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Why a file or folder could not be read or made, in words; the path is said by who calls. */
export function fileErrorText(thrown: unknown): string {
  const code = errorCode(thrown) ?? '';
  return Object.hasOwn(FILE_ERRORS, code) ? (FILE_ERRORS[code] as string) : errorText(thrown);
}

const FILE_ERRORS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EACCES: 'reading it is not allowed',
  EPERM: 'reading it is not allowed',
  EISDIR: 'it is a folder',
  ENOTDIR: 'it is no folder',
  EEXIST: 'it is no folder',
};
