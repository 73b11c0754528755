/**
 * The server's configuration: JSON, strictly parsed; unknown settings are refused.
 */
import { isAbsolute, join } from 'node:path';
import { type Listening, listeningOf, unsafeListening, unsafeUrl } from '@countermark/node-platform/transport-security';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { DEFAULT_LIMITS, type Limits } from './limits.ts';
import { type PolicyValues, policyValues } from './policies.ts';

export type Config = {
  readonly data: string;
  /** `sqlite:///path` or `postgres://...`. Default: SQLite in `data`. */
  readonly database: string;
  readonly listen: Listening;
  /** The file. */
  readonly trustBundle: string;
  readonly cdSocket: string;
  readonly cdSessionSocket: string;
  readonly acceptanceSocket: string;
  readonly authority: { readonly url: string; readonly credential: string };
  readonly operatorCredential: string;
  /** Further operators: what needs two people is done by two of these names. The one above is `operator`. */
  readonly operators: readonly OperatorCredential[];
  /** How many a minute, where it differs from `DEFAULT_LIMITS`. */
  readonly rateLimits: Limits;
  /** How long pieces of a dead device may still turn up: its balance is not paid back before. */
  readonly scanWindowDays: number;
  /** What differs from the default policy; amounts are texts of mills. */
  readonly policy: PolicyValues;
};

/** An operator by name, with a credential of 32 bytes in hex. */
export type OperatorCredential = { readonly name: string; readonly credential: string };

/** The name of whoever has `operatorCredential`. */
export const FIRST_OPERATOR = 'operator';
const SCAN_WINDOW_DAYS = 90;

const TEXTS = ['data', 'trustBundle', 'cdSocket', 'cdSessionSocket', 'acceptanceSocket', 'operatorCredential'] as const;
const SETTINGS: readonly string[] = [
  ...TEXTS,
  'database',
  'listen',
  'authority',
  'operators',
  'scanWindowDays',
  'rateLimits',
  'policy',
];
const CREDENTIAL = /^[0-9a-f]{64}$/;

/** Parses the configuration. Rejections: `config-invalid`, `insecure-address`. */
export function parseConfig(json: unknown): Result<Config> {
  const invalid = (reason: string) => refuse(rejection('config-invalid', { file: 'of the server', reason }));
  const given = objectOf(json);
  if (given === null) return invalid('it is not an object');
  const unknown = Object.keys(given).find((name) => !SETTINGS.includes(name));
  if (unknown !== undefined) return invalid(`the setting ${unknown} is unknown`);
  const missing = TEXTS.find((name) => typeof given[name] !== 'string' || given[name] === '');
  if (missing !== undefined) return invalid(`the setting ${missing} is missing or no text`);
  const texts = given as Readonly<Record<(typeof TEXTS)[number], string>>;
  if (!isAbsolute(texts.data)) return invalid('data must be an absolute path');
  if (!CREDENTIAL.test(texts.operatorCredential)) return invalid('operatorCredential must be 32 bytes in hex');
  const listen = listeningOf(given['listen']);
  if (listen === null) return invalid('listen must have host and port, and may have tls with certFile and keyFile');
  const exposed = unsafeListening(listen);
  if (exposed !== null) return refuse(exposed);
  const { url, credential, ...besideAuthority } = objectOf(given['authority']) ?? {};
  if (typeof url !== 'string' || !URL.canParse(url)) return invalid('authority must have a url');
  if (typeof credential !== 'string' || !CREDENTIAL.test(credential)) {
    return invalid("the authority's credential must be 32 bytes in hex");
  }
  const open = unsafeUrl(url, 'The authority');
  if (open !== null) return refuse(open);
  const [stranger] = Object.keys(besideAuthority);
  if (stranger !== undefined) return invalid(`the setting ${stranger} is unknown in authority`);
  const own = new URL('sqlite:///');
  own.pathname = join(texts.data, 'server.sqlite');
  const database = given['database'] ?? own.href;
  if (typeof database !== 'string' || !/^(sqlite:\/\/\/|postgres(ql)?:\/\/)./.test(database)) {
    return invalid('database must be sqlite:///absolute/path or postgres://user@host/name');
  }
  const plain = unsafeUrl(database, 'The database');
  if (plain !== null) return refuse(plain);
  const operators = operatorsOf(given['operators'] ?? [], texts.operatorCredential);
  if (operators === null) {
    return invalid('operators must be a list of other names than "operator", each with a credential of its own');
  }
  const scanWindowDays = given['scanWindowDays'] ?? SCAN_WINDOW_DAYS;
  if (
    typeof scanWindowDays !== 'number' ||
    !Number.isInteger(scanWindowDays) ||
    !(scanWindowDays >= 1 && scanWindowDays <= 3_650)
  ) {
    return invalid('scanWindowDays must be 1 to 3650');
  }
  const rateLimits = limitsOf(given['rateLimits'] ?? {});
  if (rateLimits === null) {
    return invalid(`rateLimits may have ${Object.keys(DEFAULT_LIMITS).join(', ')}, each 1 to 1000000 a minute`);
  }
  const policy = policyValues(objectOf(given['policy'] ?? {}) ?? { form: null });
  if (!policy.ok) return policy;
  const { data, trustBundle, cdSocket, cdSessionSocket, acceptanceSocket, operatorCredential } = texts;
  return accept({
    data,
    database,
    listen,
    trustBundle,
    cdSocket,
    cdSessionSocket,
    acceptanceSocket,
    authority: { url, credential },
    operatorCredential,
    operators,
    scanWindowDays,
    rateLimits,
    policy: policy.value,
  });
}

/** Null where a name or a credential is not one, or stands twice: two people must not be one. */
function operatorsOf(given: unknown, first: string): readonly OperatorCredential[] | null {
  if (!Array.isArray(given) || given.length > 100) return null;
  const operators: OperatorCredential[] = [];
  const taken = new Set<unknown>([FIRST_OPERATOR, first]);
  for (const one of given as readonly unknown[]) {
    const { name, credential, ...others } = objectOf(one) ?? {};
    if (typeof name !== 'string' || !/^[a-z0-9][a-z0-9-]{0,31}$/.test(name) || taken.has(name)) return null;
    if (typeof credential !== 'string' || !CREDENTIAL.test(credential) || taken.has(credential)) return null;
    if (Object.keys(others).length > 0) return null;
    taken.add(name).add(credential);
    operators.push({ name, credential });
  }
  return operators;
}

/** Null where one is unknown or no number of requests. */
function limitsOf(given: unknown): Limits | null {
  const limits = objectOf(given);
  if (limits === null) return null;
  const isLimit = ([name, most]: readonly [string, unknown]): boolean =>
    Object.hasOwn(DEFAULT_LIMITS, name) && Number.isInteger(most) && Number(most) >= 1 && Number(most) <= 1_000_000;
  return Object.entries(limits).every(isLimit) ? { ...DEFAULT_LIMITS, ...(limits as Partial<Limits>) } : null;
}

function objectOf(value: unknown): Readonly<Record<string, unknown>> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : null;
}
