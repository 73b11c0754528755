/**
 * How a party reaches its token by PKCS#11: the settings, the PIN, and what a refusal of it is called.
 *
 * Guarantees: a PIN stands in a file of its own that its owner alone can read, never on a command line, in the configuration, or in an error.
 */
import { readFileSync, statSync } from 'node:fs';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { errorText, Fault } from './fault.ts';
import type { HsmAccess } from './hsm-threads.ts';

/** How a token is reached. */
export type HsmConfig = {
  /** Path of the PKCS#11 module. */
  readonly module: string;
  /** Label of the token. */
  readonly token: string;
  /** File that holds the user's PIN, readable by its owner alone. */
  readonly pinFile: string;
};

const SETTINGS: readonly string[] = ['module', 'token', 'pinFile'];
const OTHERS = 0o077;

/** Whether it is exactly the three settings, each a text. */
export function isHsmConfig(value: unknown): value is HsmConfig {
  if (typeof value !== 'object' || value === null) return false;
  const entries = Object.entries(value);
  return (
    entries.length === SETTINGS.length &&
    entries.every(([name, text]) => SETTINGS.includes(name) && typeof text === 'string' && text !== '')
  );
}

/** The same with the PIN. Rejection: `config-invalid`. */
export function hsmAccess({ module, token, pinFile: file }: HsmConfig): Result<HsmAccess> {
  const invalid = (reason: string) => refuse(rejection('config-invalid', { file, reason }));
  try {
    if ((statSync(file).mode & OTHERS) !== 0) return invalid('others than its owner can read the PIN: chmod 600');
    const pin = readFileSync(file, 'utf8').replace(/\r?\n$/, '');
    return pin === '' ? invalid('it is empty, where the PIN of the token is to stand') : accept({ module, token, pin });
  } catch (error) {
    return invalid(`the PIN cannot be read (${errorText(error)})`);
  }
}

/** The rejection that a fault of the token is to whoever asked, or null where it is another one. */
export function hsmRejection(error: unknown, token: string): Rejection | null {
  if (!(error instanceof Fault)) return null;
  if (error.code !== 'hsm-refused' && error.code !== 'hsm-unavailable') return null;
  return rejection(error.code, { token, reason: error.message });
}
