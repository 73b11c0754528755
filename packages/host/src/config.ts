/**
 * The host's settings, as the supervisor writes them into a JSON file.
 *
 * Guarantees: unknown keys, wrong types and impossible combinations are refused with the name of the setting; every default
 * stands here and nowhere else. Does not look at the disk.
 */
import { unsafeUrl } from '@countermark/node-platform/transport-security';
import { LICENSEE_ID, type LicenseeId } from '@countermark/protocol/id';
import { type Mills, mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { SHIPPED_TARIFFS } from '@countermark/tariff/shipped';

const DAY_MS = 86_400_000;

export type HostConfig = {
  /** Folder of the host's store. */
  readonly data: string;
  readonly socket: string;
  readonly psdSocket: string;
  readonly psdSessionSocket: string;
  readonly server: { readonly url: string; readonly credential: string };
  /** Path of `trust-bundle.json`. */
  readonly trustBundle: string;
  readonly licensee: LicenseeId;
  /** `one`: the licensee's own mail only; `many`: rows name customers. */
  readonly customers: 'one' | 'many';
  readonly transport: 'session' | 'sessionless';
  readonly forwarding: 'at-once' | 'hold';
  readonly holdForMs: number;
  readonly submitter: string;
  readonly preparer: string;
  readonly sheet: 'letter' | 'a4';
  /** Whether indicia are drawn as PDF; the merge file is written in any case. */
  readonly pages: boolean;
  /** Folder of the jobs' files. */
  readonly output: string;
  readonly tariff: string;
  /** Customers of a file that are not registered yet are registered at the server by themselves. */
  readonly registerCustomers: boolean;
  /** Asked for by itself when a device that never received funds is to frank; 0: nothing is. */
  readonly firstRefillMills: Mills;
  /** Ask for what a mailing needs beyond the device's funds. */
  readonly automaticRefill: boolean;
  /** While it franks, the host asks for funds when the device has less than this; 0: it does not. */
  readonly refillBelowMills: Mills;
  /** It then asks for what is missing to this, which is more. */
  readonly refillToMills: Mills;
  /** How long piece records and salts are kept after their record was confirmed. */
  readonly retentionMs: number;
  /** How many records a day the device must be able to keep while they are held. */
  readonly recordsPerDay: number;
};

const KEYS = [
  'data',
  'socket',
  'psdSocket',
  'psdSessionSocket',
  'server',
  'trustBundle',
  'licensee',
  'customers',
  'transport',
  'forwarding',
  'holdForMs',
  'submitter',
  'preparer',
  'sheet',
  'pages',
  'output',
  'tariff',
  'registerCustomers',
  'firstRefillMills',
  'automaticRefill',
  'refillBelowMills',
  'refillToMills',
  'retentionMs',
  'recordsPerDay',
];

class Unfit extends Error {
  readonly rejection: Rejection;

  constructor(reason: string, refused = rejection('config-invalid', { file: 'host', reason })) {
    super(reason);
    this.rejection = refused;
  }
}

/** Parses the JSON of a config file. Rejections: `config-invalid`, `insecure-address`. */
export function parseHostConfig(json: unknown): Result<HostConfig> {
  try {
    return accept(read(json));
  } catch (error) {
    if (!(error instanceof Unfit)) throw error;
    return refuse(error.rejection);
  }
}

function read(json: unknown): HostConfig {
  const fields = objectOf(json, 'the configuration');
  for (const key of Object.keys(fields)) if (!KEYS.includes(key)) throw new Unfit(`${key} is not a setting`);
  const text = (name: string, fallback?: string): string => textOf(fields[name] ?? fallback, name);
  const data = text('data');
  const server = objectOf(fields.server, 'server');
  for (const key of Object.keys(server)) {
    if (key !== 'url' && key !== 'credential') throw new Unfit(`server.${key} is not a setting`);
  }
  const url = textOf(server.url, 'server.url');
  if (!/^https?:\/\//.test(url)) throw new Unfit('server.url must begin with http:// or https://');
  const open = unsafeUrl(url, 'The server');
  if (open !== null) throw new Unfit('the server is not asked with TLS', open);
  const licensee = text('licensee');
  if (!LICENSEE_ID.test(licensee)) throw new Unfit('licensee must be like lic_name');
  const tariff = text('tariff', SHIPPED_TARIFFS.at(-1)?.tariff.id);
  if (!SHIPPED_TARIFFS.some((shipped) => shipped.tariff.id === tariff)) {
    throw new Unfit(`tariff must be one of ${SHIPPED_TARIFFS.map((shipped) => shipped.tariff.id).join(', ')}`);
  }
  const amount = (name: string): Mills => {
    const given = text(name, '0');
    if (!/^\d{1,18}$/.test(given)) throw new Unfit(`${name} must be an amount in mills, as a text`);
    return mills(BigInt(given));
  };
  const refillBelowMills = amount('refillBelowMills');
  const refillToMills = amount('refillToMills');
  if (refillBelowMills > 0n && refillToMills <= refillBelowMills) {
    throw new Unfit('refillToMills must be more than refillBelowMills');
  }
  const forwarding = oneOf(fields.forwarding ?? 'at-once', 'forwarding', ['at-once', 'hold'] as const);
  return {
    data,
    socket: text('socket'),
    psdSocket: text('psdSocket'),
    psdSessionSocket: text('psdSessionSocket'),
    server: { url: url.replace(/\/+$/, ''), credential: textOf(server.credential, 'server.credential') },
    trustBundle: text('trustBundle'),
    licensee: licensee as LicenseeId,
    customers: oneOf(fields.customers ?? 'many', 'customers', ['one', 'many'] as const),
    transport: oneOf(fields.transport ?? 'session', 'transport', ['session', 'sessionless'] as const),
    forwarding,
    // Stored for at least one day where it is stored at all (claims 12 and 24).
    holdForMs: whole(fields.holdForMs ?? DAY_MS, 'holdForMs', forwarding === 'hold' ? DAY_MS : 0, 90 * DAY_MS),
    submitter: short(text('submitter', licensee), 'submitter'),
    preparer: short(text('preparer', licensee), 'preparer'),
    sheet: oneOf(fields.sheet ?? 'letter', 'sheet', ['letter', 'a4'] as const),
    pages: flag(fields.pages ?? true, 'pages'),
    output: text('output', `${data}/jobs`),
    tariff,
    registerCustomers: flag(fields.registerCustomers ?? false, 'registerCustomers'),
    firstRefillMills: amount('firstRefillMills'),
    automaticRefill: flag(fields.automaticRefill ?? false, 'automaticRefill'),
    refillBelowMills,
    refillToMills,
    retentionMs: whole(fields.retentionMs ?? 730 * DAY_MS, 'retentionMs', DAY_MS, 36_500 * DAY_MS),
    recordsPerDay: whole(fields.recordsPerDay ?? 1_000, 'recordsPerDay', 1, 1_000_000),
  };
}

function objectOf(value: unknown, name: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Unfit(`${name} must be an object`);
  return value as Readonly<Record<string, unknown>>;
}

function textOf(value: unknown, name: string): string {
  if (typeof value !== 'string' || value === '') throw new Unfit(`${name} must be a text`);
  return value;
}

function short(value: string, name: string): string {
  if (Buffer.byteLength(value) > 64 || /\p{Cc}/u.test(value)) throw new Unfit(`${name} must be at most 64 bytes long`);
  return value;
}

function oneOf<const T extends readonly string[]>(value: unknown, name: string, values: T): T[number] {
  if (typeof value !== 'string' || !values.includes(value)) {
    throw new Unfit(`${name} must be one of ${values.join(', ')}`);
  }
  return value;
}

function flag(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw new Unfit(`${name} must be true or false`);
  return value;
}

function whole(value: unknown, name: string, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most) {
    throw new Unfit(`${name} must be a whole number from ${least} to ${most}`);
  }
  return value;
}
