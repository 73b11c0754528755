/**
 * The device's configuration, as the supervisor writes it: a JSON file, strictly parsed.
 */
import { type HsmConfig, isHsmConfig } from '@countermark/node-platform/hsm-access';
import type { Authentication } from '@countermark/protocol/cose';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';

export type PsdConfig = {
  /** Folder of the store. */
  readonly data: string;
  readonly socket: string;
  readonly sessionSocket: string;
  /** File of the trust bundle. */
  readonly trustBundle: string;
  readonly authentication: Authentication;
  readonly memory: Memory;
  /** Sealed records that the device keeps until they are confirmed. */
  readonly recordCapacity: number;
  /** The token that has the device's keys and its mark; without it they lie in the store. */
  readonly hsm?: HsmConfig;
};

const DEFAULT_RECORD_CAPACITY = 1_000;
const MAX_RECORD_CAPACITY = 100_000;
const PATHS = ['data', 'socket', 'sessionSocket', 'trustBundle'] as const;
const KNOWN: readonly string[] = [...PATHS, 'authentication', 'memory', 'recordCapacity', 'hsm'];

/** Parses the JSON of the config file. Rejection: `config-invalid`. */
export function parsePsdConfig(json: unknown): Result<PsdConfig> {
  const invalid = (reason: string) => refuse(rejection('config-invalid', { file: 'of the device', reason }));
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return invalid('an object is expected');
  const given = json as Readonly<Record<string, unknown>>;
  const unknown = Object.keys(given).find((key) => !KNOWN.includes(key));
  if (unknown !== undefined) return invalid(`the setting ${unknown} is unknown`);
  const missing = PATHS.find((key) => typeof given[key] !== 'string' || given[key] === '');
  if (missing !== undefined) return invalid(`${missing} must be a path`);
  const { authentication, memory, recordCapacity = DEFAULT_RECORD_CAPACITY, hsm } = given;
  if (authentication !== 'mac' && authentication !== 'signature') {
    return invalid('authentication must be "mac" or "signature"');
  }
  if (memory !== 'psd' && memory !== 'host') return invalid('memory must be "psd" or "host"');
  if (
    typeof recordCapacity !== 'number' ||
    !Number.isInteger(recordCapacity) ||
    recordCapacity < 1 ||
    recordCapacity > MAX_RECORD_CAPACITY
  ) {
    return invalid(`recordCapacity must be an integer from 1 to ${MAX_RECORD_CAPACITY}`);
  }
  if (hsm !== undefined && !isHsmConfig(hsm)) return invalid('hsm must be {module, token, pinFile}, each a text');
  const [data, socket, sessionSocket, trustBundle] = PATHS.map((key) => given[key] as string) as [
    string,
    string,
    string,
    string,
  ];
  const settings: PsdConfig = { data, socket, sessionSocket, trustBundle, authentication, memory, recordCapacity };
  return accept(hsm === undefined ? settings : { ...settings, hsm });
}
