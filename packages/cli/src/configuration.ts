/**
 * The settings of an installation: DIR/countermark.toml, written at the first start, checked strictly at every start.
 *
 * Guarantees: one list says name, values, standard and meaning of each setting; the file's checks, its comments, the options of
 * `up` and docs/configuration.md are made from it, so that they cannot differ. An unknown or wrong setting is refused with its
 * name and what would be right, and nothing starts.
 */
import {
  duration,
  flag,
  oneOf,
  optional,
  readConfig,
  readTomlFile,
  type Setting as Block,
  table,
  text,
  wholeNumber,
} from '@countermark/node-platform/config';
import { type Listening, unsafeListening, unsafeUrl } from '@countermark/node-platform/transport-security';
import { LICENSEE_ID } from '@countermark/protocol/id';
import { type Mills, parseDecimalMills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';

/** The tariffs of the demonstration are in US dollars, in mills. */
const DEMO_EXPONENT = 3;

const DAY_MS = 86_400_000;
const WORDS = /^[^\p{Cc}]{1,64}$/u;
const PATH = /^[^\p{Cc}]{1,1000}$/u;

/** An amount of the tariff's currency as a text, because TOML's numbers are floats. */
function amount(): Block<Mills> {
  const form = text(/^\d{1,12}(\.\d{1,3})?$/, 'an amount such as "250.00", as a text');
  return {
    read: (value, path, tell) => {
      const read = form.read(value, path, tell);
      return typeof read === 'string' ? (parseDecimalMills(read, DEMO_EXPONENT) as Mills) : read;
    },
  };
}

const BLOCKS = {
  authentication: oneOf('signature', 'mac'),
  transport: oneOf('sessionless', 'session'),
  records: oneOf('host', 'psd'),
  forwarding: oneOf('at-once', 'hold'),
  // Stored for at least one day where it is stored at all (claims 12 and 24).
  holdFor: duration(DAY_MS, 90 * DAY_MS),
  customers: oneOf('many', 'one'),
  licensee: text(LICENSEE_ID, 'lic_ and up to 32 lower-case letters, digits and hyphens'),
  submitter: text(WORDS, 'at most 64 characters'),
  preparer: text(WORDS, 'at most 64 characters'),
  sheet: oneOf('letter', 'a4'),
  pages: flag(),
  database: text(/^postgres(ql)?:\/\/\S{1,500}$/, 'postgres://USER:PASSWORD@HOST:PORT/NAME'),
  listen: text(/^[0-9A-Za-z.:-]{1,64}$/, 'an address of this machine'),
  certificate: text(/^\/[^\p{Cc}]{1,255}$/u, 'the absolute path of a PEM file'),
  certificateKey: text(/^\/[^\p{Cc}]{1,255}$/u, 'the absolute path of a PEM file'),
  serverPort: wholeNumber(0, 65_535),
  authorityPort: wholeNumber(0, 65_535),
  recordCapacity: wholeNumber(1, 100_000),
  pkcs11Module: text(PATH, 'the path of a PKCS#11 module'),
  pkcs11Token: text(WORDS, 'the label of a token'),
  pkcs11PinFile: text(PATH, 'the path of a file that holds the PIN'),
  psdPkcs11Module: text(PATH, 'the path of a PKCS#11 module'),
  psdPkcs11Token: text(WORDS, 'the label of a token'),
  psdPkcs11PinFile: text(PATH, 'the path of a file that holds the PIN'),
  highestGrant: amount(),
  highestDaily: amount(),
  deposit: amount(),
  refill: amount(),
  refillBelow: amount(),
  refillTo: amount(),
} as const;

export type SettingName = keyof typeof BLOCKS;
type ReadBy<B> = B extends Block<infer T> ? T : never;

/** Settings that were given; the others have their standard values. */
export type GivenSettings = { readonly [K in SettingName]?: ReadBy<(typeof BLOCKS)[K]> };

/** Settings that have no standard value. */
type Optional = 'database' | 'certificate' | 'certificateKey' | keyof typeof VARIABLES;

/**
 * All settings. Without `database`, stores are embedded in the data folder; without `certificate`, plain HTTP on this machine; without
 * `pkcs11Module` keys lie in files, without `psdPkcs11Module` in the PSD's store.
 */
export type Settings = { readonly [K in Exclude<SettingName, Optional>]: ReadBy<(typeof BLOCKS)[K]> } & {
  readonly [K in Optional]?: string;
};

const FILE = table(
  Object.fromEntries(Object.entries(BLOCKS).map(([name, block]) => [name, optional(block as Block<unknown>)])),
);

type Setting = {
  readonly name: SettingName;
  /** What may stand there, for readers. */
  readonly values: readonly string[] | string;
  /** As it is written in the file; undefined where there is none. */
  readonly standard?: string | number | boolean;
  /** An example, where there is no standard value. */
  readonly example?: string;
  /** Fixed at the first start: the device, the registry or the stores hold it. */
  readonly lasting?: boolean;
  readonly meaning: string;
};

/** Every setting, in the order of the file. */
export const SETTINGS: readonly Setting[] = [
  {
    name: 'authentication',
    values: ['signature', 'mac'],
    standard: 'signature',
    lasting: true,
    meaning: 'How the PSD authenticates statistics and indicia: a digital signature, or a message authentication code.',
  },
  {
    name: 'transport',
    values: ['sessionless', 'session'],
    standard: 'sessionless',
    meaning: 'How records reach the cryptographic device: as they are, or in a mutual TLS 1.3 session with the PSD.',
  },
  {
    name: 'records',
    values: ['host', 'psd'],
    standard: 'host',
    lasting: true,
    meaning:
      'Where the records of pieces lie until their batch is closed: in the memory of the host, or inside the PSD.',
  },
  {
    name: 'forwarding',
    values: ['at-once', 'hold'],
    standard: 'at-once',
    meaning: 'Whether a record is sent when its batch is closed, or kept in host memory for holdFor first.',
  },
  {
    name: 'holdFor',
    values: 'duration',
    standard: '1d',
    meaning:
      'How long forwarding = "hold" keeps a record before it is sent: a day or more. `countermark statistics send` does not bypass it.',
  },
  {
    name: 'customers',
    values: ['many', 'one'],
    standard: 'many',
    lasting: true,
    meaning:
      'Whether the licensee is a bureau that franks for many customers (named in the column `customer`), or a mailer that franks its own mail. Where nothing is said at the first start, the mailing decides: without that column it is one.',
  },
  {
    name: 'licensee',
    values: 'lic_...',
    standard: 'lic_demo-bureau',
    lasting: true,
    meaning: 'Who holds the licence to frank. Where nothing is said, one mailer is lic_demo-mailer.',
  },
  {
    name: 'submitter',
    values: 'text',
    standard: 'Demo Bureau',
    meaning: 'Who hands the mail over, as every batch declares it.',
  },
  {
    name: 'preparer',
    values: 'text',
    standard: 'Demo Bureau',
    meaning: 'Who prepared the mail, as every batch declares it.',
  },
  { name: 'sheet', values: ['letter', 'a4'], standard: 'letter', meaning: 'The paper of the pages of indicia.' },
  {
    name: 'pages',
    values: ['true', 'false'],
    standard: true,
    meaning: 'Whether pages of indicia (PDF) are made.',
  },
  {
    name: 'database',
    values: 'postgres://...',
    example: 'postgres://user:password@localhost:5432/countermark',
    lasting: true,
    meaning:
      'The PostgreSQL in which server and authority keep their data, each in a schema of its own. Where nothing is said, they use embedded stores in the data folder. On another machine it must be asked with ?sslmode=verify-full.',
  },
  {
    name: 'listen',
    values: 'address',
    standard: '127.0.0.1',
    meaning:
      'The address on which server and authority listen. One that is not of this machine itself needs certificate and certificateKey, and is then the name in that certificate.',
  },
  {
    name: 'certificate',
    values: 'path',
    example: '/etc/countermark/certificate.pem',
    meaning:
      'The certificate (PEM, with the chain above it) with which server and authority speak TLS 1.3. Of a private authority the root must be known to all parties: NODE_EXTRA_CA_CERTS names its file.',
  },
  {
    name: 'certificateKey',
    values: 'path',
    example: '/etc/countermark/certificate.key',
    meaning: 'The key of that certificate (PEM).',
  },
  {
    name: 'serverPort',
    values: 'number',
    standard: 0,
    meaning: 'The port of the server; 0 takes a free one at each start (`countermark status` names it).',
  },
  {
    name: 'authorityPort',
    values: 'number',
    standard: 0,
    meaning: 'The port of the authority; 0 takes a free one at each start.',
  },
  {
    name: 'recordCapacity',
    values: 'number',
    standard: 1_000,
    meaning: 'How many unconfirmed records the PSD keeps. With forwarding = "hold" it must suffice for holdFor.',
  },
  {
    name: 'pkcs11Module',
    values: 'path',
    example: '/usr/lib/softhsm/libsofthsm2.so',
    meaning:
      'The PKCS#11 module of the hardware security module that holds the keys of the cryptographic device. Where nothing is said they lie in files, which is unsafe. Also COUNTERMARK_PKCS11_MODULE.',
  },
  {
    name: 'pkcs11Token',
    values: 'text',
    example: 'countermark',
    meaning: 'The label of the token there. Also COUNTERMARK_PKCS11_TOKEN.',
  },
  {
    name: 'pkcs11PinFile',
    values: 'path',
    example: '/etc/countermark/pin',
    meaning:
      "The file that holds the PIN of the token's user, readable by its owner alone. Also COUNTERMARK_PKCS11_PIN_FILE.",
  },
  {
    name: 'psdPkcs11Module',
    values: 'path',
    example: '/usr/lib/softhsm/libsofthsm2.so',
    meaning:
      "The PKCS#11 module of the token that holds the PSD's signature and agreement keys, and the mark by which an older copy of its store is refused. Where nothing is said they lie in its store, which is unsafe. For the device's life. Also COUNTERMARK_PSD_PKCS11_MODULE.",
  },
  {
    name: 'psdPkcs11Token',
    values: 'text',
    example: 'countermark-psd',
    meaning: 'The label of that token. Also COUNTERMARK_PSD_PKCS11_TOKEN.',
  },
  {
    name: 'psdPkcs11PinFile',
    values: 'path',
    example: '/etc/countermark/psd-pin',
    meaning:
      "The file that holds the PIN of that token's user, readable by its owner alone. Also COUNTERMARK_PSD_PKCS11_PIN_FILE.",
  },
  {
    name: 'highestGrant',
    values: 'amount',
    standard: '1000000.00',
    meaning: 'What the cryptographic device signs in one funds grant at most, whatever the server decides.',
  },
  {
    name: 'highestDaily',
    values: 'amount',
    standard: '2000000.00',
    meaning: 'What it signs for one device within 24 hours at most.',
  },
  {
    name: 'deposit',
    values: 'amount',
    standard: '100000.00',
    lasting: true,
    meaning: 'Demonstration: what is paid in for the licensee at the first start.',
  },
  {
    name: 'refill',
    values: 'amount',
    standard: '5000.00',
    meaning: 'Demonstration: the funds that the PSD gets at the first start. Later: countermark funds refill AMOUNT.',
  },
  {
    name: 'refillBelow',
    values: 'amount',
    standard: '0',
    meaning:
      'While it franks, the host asks for a refill by itself when the PSD has less than this; 0: it does not. A refused one is said once, and franking goes on until the funds are used up.',
  },
  {
    name: 'refillTo',
    values: 'amount',
    standard: '0',
    meaning:
      'What the PSD shall have after such a refill, as far as its policy lets it hold that; more than refillBelow.',
  },
];

const STANDARD = readConfig(
  FILE,
  Object.fromEntries(SETTINGS.flatMap(({ name, standard }) => (standard === undefined ? [] : [[name, standard]]))),
  'of standard values',
);

/** Reads countermark.toml. Rejection: `config-invalid`, with every problem. */
export async function readSettings(file: string): Promise<Result<GivenSettings>> {
  return readTomlFile(FILE, file);
}

/** Checks values given by name, for instance as options. Rejection: `config-invalid`. */
export function checkSettings(given: Readonly<Record<string, unknown>>, origin: string): Result<GivenSettings> {
  return readConfig(FILE, given, origin);
}

/** The settings that variables of the environment give, for one start; a setting that is given itself goes first. */
const VARIABLES = {
  pkcs11Module: 'COUNTERMARK_PKCS11_MODULE',
  pkcs11Token: 'COUNTERMARK_PKCS11_TOKEN',
  pkcs11PinFile: 'COUNTERMARK_PKCS11_PIN_FILE',
  psdPkcs11Module: 'COUNTERMARK_PSD_PKCS11_MODULE',
  psdPkcs11Token: 'COUNTERMARK_PSD_PKCS11_TOKEN',
  psdPkcs11PinFile: 'COUNTERMARK_PSD_PKCS11_PIN_FILE',
} as const;

/** The settings of each token, which go together. */
const TOKENS = [
  ['pkcs11Module', 'pkcs11Token', 'pkcs11PinFile'],
  ['psdPkcs11Module', 'psdPkcs11Token', 'psdPkcs11PinFile'],
] as const;

/** Adds the standard values, and what the environment says. Rejections: `config-invalid` where settings contradict each other, `insecure-address`. */
export function completeSettings(
  given: GivenSettings,
  file: string,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Result<Settings> {
  const said = checkSettings(
    Object.fromEntries(
      Object.entries(VARIABLES).flatMap(([name, variable]) => {
        const value = environment[variable];
        return value === undefined || value === '' ? [] : [[name, value]];
      }),
    ),
    'of the environment',
  );
  if (!said.ok) return said;
  if (!STANDARD.ok) throw new TypeError('The standard settings are not valid.');
  const mailer = { licensee: 'lic_demo-mailer', submitter: 'Demo Mailer', preparer: 'Demo Mailer' };
  const settings = {
    ...(STANDARD.value as Settings),
    ...(given.customers === 'one' ? mailer : {}),
    ...said.value,
    ...given,
  };
  for (const token of TOKENS) {
    const missing = token.find((name) => settings[name] === undefined);
    if (missing === undefined || token.every((name) => settings[name] === undefined)) continue;
    const reason = `${missing} is missing: module, token and PIN file are given together, here or as ${VARIABLES[missing]}`;
    return refuse(rejection('config-invalid', { file, reason }));
  }
  if (settings.refill > settings.deposit) {
    return refuse(rejection('config-invalid', { file, reason: 'refill is more than deposit' }));
  }
  if (settings.refillBelow > 0n && settings.refillTo <= settings.refillBelow) {
    return refuse(rejection('config-invalid', { file, reason: 'refillTo must be more than refillBelow' }));
  }
  if ((settings.certificate === undefined) !== (settings.certificateKey === undefined)) {
    return refuse(rejection('config-invalid', { file, reason: 'certificate and certificateKey go together' }));
  }
  const exposed =
    unsafeListening(listeningBy(settings, 0)) ??
    (settings.database === undefined ? null : unsafeUrl(settings.database, 'The database'));
  return exposed === null ? accept(settings) : refuse(exposed);
}

/** Where a party listens by these settings. */
export function listeningBy(
  { listen, certificate, certificateKey }: Pick<Settings, 'listen' | Optional>,
  port: number,
): Listening {
  const tls =
    certificate === undefined || certificateKey === undefined
      ? undefined
      : { certFile: certificate, keyFile: certificateKey };
  return { host: listen, port, ...(tls === undefined ? {} : { tls }) };
}

/** The name of a lasting setting that one start would change, or undefined. */
export function changedLasting(before: Settings, now: GivenSettings): SettingName | undefined {
  return SETTINGS.find(({ name, lasting }) => lasting === true && now[name] !== undefined && now[name] !== before[name])
    ?.name;
}

/** The text of countermark.toml: each setting with its meaning; those that are not given stand as comments. */
export function settingsFile(given: Readonly<Record<string, string | number | boolean>>): string {
  const lines = [
    '# Countermark: the settings of this installation. One that stands behind a # has its standard value.',
    '# Those marked [lasting] were fixed at the first start: the device, the registry or the stores hold them.',
    '',
  ];
  for (const { name, values, standard, example, lasting, meaning } of SETTINGS) {
    const marked = `${lasting === true ? '[lasting] ' : ''}${meaning}`;
    lines.push(...wrapped(marked, 118).map((line) => `# ${line}`));
    if (typeof values !== 'string') lines.push(`# One of: ${values.join(', ')}.`);
    const value = given[name];
    lines.push(`${value === undefined ? '# ' : ''}${name} = ${JSON.stringify(value ?? standard ?? example)}`, '');
  }
  return lines.join('\n');
}

/** docs/configuration.md: the same list for readers. */
export function settingsPage(): string {
  const rows = SETTINGS.map(({ name, values, standard, lasting, meaning }) => {
    const shown = typeof values === 'string' ? values : values.map((value) => `\`${value}\``).join(', ');
    const usual = standard === undefined ? '(none)' : `\`${String(standard)}\``;
    return `| \`${name}\` | ${shown} | ${usual} | ${meaning}${lasting === true ? ' **Lasting.**' : ''} |`;
  });
  return [
    '# Configuration',
    '',
    '<!-- Generated by tests/generators/command-line.ts from packages/cli/src/configuration.ts; do not edit. -->',
    '',
    'An installation lives in one data folder, `./countermark-data` or `--data DIR`. Its settings stand in',
    '`countermark.toml` there, a file that the first `countermark up` (which is `npm start`) writes with every setting',
    'explained. The file is checked strictly at every start: a wrong or unknown setting is refused, and nothing starts.',
    "Options of `countermark up` that bear a setting's name (`--hold-for 1d` for `holdFor`) are written into the file at the",
    'first start; later they hold for that start alone. Settings marked **lasting** cannot be changed after the first',
    'start, because the device, the registry or the stores hold them: take another data folder.',
    '',
    '| setting | values | standard | meaning |',
    '|---|---|---|---|',
    ...rows,
    '',
    'Durations are numbers with their units: `90s`, `15m`, `36h`, `1d12h`. Amounts are decimal, in the currency of the tariff.',
    '',
    'The claims are combined by five of the settings alone: `authentication`, `transport`, `records`, `forwarding` (with',
    '`holdFor`) and `customers`. Each of the 32 combinations works (`tests/ways`).',
    '',
    'Credentials are no settings: they are made at the first start and kept in `credentials.json` and `run/` of the data',
    'folder, readable by its owner alone. A PIN stands in its file alone, never here or on a command line. No variable of the',
    'environment changes what is franked; `NO_COLOR` switches colours off.',
    '',
  ].join('\n');
}

/** The name of a setting as an option of `up`: holdFor is hold-for. */
export function optionName(setting: string): string {
  return setting.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function wrapped(paragraph: string, columns: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of paragraph.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
