/**
 * Files that people and posts write: tariffs, programmes, and the configurations of all parties.
 *
 * A tariff that is taken is its own canonical text, with prices above zero that never fall with weight; a programme that is
 * taken is the same programme by its canonical text, and its rates are above 0 and at most 1; of a configuration that is taken,
 * no setting was dropped unseen.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { parseConfig as parseAuthorityConfig } from '@countermark/authority/config';
import { checkSettings, completeSettings } from '@countermark/cli/configuration';
import { parseHostConfig } from '@countermark/host/config';
import { parsePsdConfig } from '@countermark/psd/shell/config';
import { parseConfig as parseServerConfig } from '@countermark/server/config';
import { canonicalText } from '@countermark/tariff/canonical-text';
import { inSuccession, parseProgramme, type Rate } from '@countermark/tariff/programme';
import { ratePiece } from '@countermark/tariff/rate';
import { SHIPPED_TARIFFS } from '@countermark/tariff/shipped';
import { parseTariff } from '@countermark/tariff/tariff';
import { parseWeight } from '@countermark/tariff/weight';
import { parse as parseToml } from 'smol-toml';
import { mutateJson } from '../json-tree.ts';
import { join, type Mutation, mutateNumbers } from '../mutation.ts';
import { ROOT } from '../root.ts';
import { ACCEPTED, must, mustEqual, type Target } from '../target.ts';

const encoder = new TextEncoder();
const textOf = (input: Uint8Array): string => Buffer.from(input).toString();

/** Changes the tree and writes it canonically, so that more than the first check is met. */
const mutateCanonically: Mutation = (input, material) => {
  const changed = mutateJson(input, material);
  try {
    return encoder.encode(canonicalText(JSON.parse(textOf(changed))));
  } catch {
    return changed;
  }
};

/** A small tariff: the shipped one is too long to be changed where it matters. */
function smallTariff(): Uint8Array {
  const [shipped] = SHIPPED_TARIFFS;
  const full = JSON.parse(textOf(shipped?.bytes ?? new Uint8Array())) as {
    products: { levels: unknown[]; affixed: unknown[] }[];
  };
  const products = full.products.slice(0, 1).map((product) => ({ ...product, levels: product.levels.slice(0, 3) }));
  const levels = new Set(products.flatMap(({ levels: rows }) => rows.map((row) => (row as { level: string }).level)));
  const kept = products.map((product) => ({
    ...product,
    groupMinimums: (product as unknown as { groupMinimums: { level: string }[] }).groupMinimums.filter(({ level }) =>
      levels.has(level),
    ),
  }));
  return encoder.encode(canonicalText({ ...full, products: kept }));
}

export const tariffTarget: Target = {
  name: 'tariff',
  about:
    'tariff files: canonical text only; prices above zero, rising with weight, declared never above affixed; rates pieces',
  words: ['tariff'],
  maxBytes: 65_536,
  mutations: [mutateCanonically, mutateCanonically, mutateNumbers],
  open: () => ({
    seeds: [smallTariff()],
    run: (input) => {
      const parsed = parseTariff(input);
      if (!parsed.ok) return refusal(parsed.problem);
      const { tariff } = parsed;
      mustEqual(
        encoder.encode(canonicalText(JSON.parse(textOf(input)))),
        input,
        'taken in another form than the canonical',
      );
      const weight = parseWeight('0.5', tariff.weightStepUnit === 'gram' ? 'g' : 'oz');
      must(weight.ok, 'half a unit is no weight');
      for (const product of tariff.products.values()) {
        for (const prices of product.affixed.values()) checkPrices(prices);
        for (const [level, entries] of product.declared) {
          for (const [entry, prices] of entries) {
            checkPrices(prices);
            for (const affixed of product.affixed.values()) {
              must(
                prices.every((price, i) => price <= (affixed[i] ?? -1n)),
                'a declared price above the affixed one',
              );
            }
            const rated = ratePiece(tariff, { product: product.product, level, entry, weightFg: weight.value });
            must(rated.ok || product.weightSteps.length === 0, 'a piece of its own level and entry is not rated');
          }
        }
      }
      return ACCEPTED;
    },
  }),
};

function checkPrices(prices: readonly bigint[]): void {
  prices.forEach((price, i) => {
    must(price > 0n && price >= (prices[i - 1] ?? 0n), 'a price that is zero, or falls with weight');
  });
}

/** The first words of a problem: they say what was refused; the rest names what stood there, which is no end of outcomes. */
function refusal(problem: string): string {
  const [first = '', second = ''] = problem.split(' ');
  return first === 'is' ? `${first} ${second}` : first;
}

/** The shipped programmes, and small ones with the forms that those have not. */
function programmeTexts(): Uint8Array[] {
  const folder = joinPath(ROOT, 'packages/authority/programmes');
  const shipped = readdirSync(folder).map((name) => readFileSync(joinPath(folder, name)));
  const [first] = shipped.map((bytes) => JSON.parse(textOf(bytes)) as Record<string, unknown>);
  const small = ['12.5 %', '99 %', '1/3'].map((rate, i) => ({
    ...first,
    baselines: undefined,
    base: 'postage',
    rate,
    period: [
      { kind: 'posting' },
      { kind: 'calendar', unit: 'year' },
      { kind: 'range', from: '2026-01-01', to: '2026-12-31' },
    ][i],
    mailingDates: { from: '2026-01-01', to: null },
  }));
  return [
    ...shipped.map((bytes) => Uint8Array.from(bytes)),
    ...small.map((one) => encoder.encode(JSON.stringify(one))),
  ];
}

export const programmeTarget: Target = {
  name: 'programme',
  about:
    'programme files: the same programme by its canonical text; rates above 0 and at most 1, bands rising, baselines once',
  words: ['tariff'],
  maxBytes: 16_384,
  mutations: [mutateJson, mutateJson, mutateNumbers],
  open: () => ({
    seeds: programmeTexts(),
    run: (input) => {
      const parsed = parseProgramme(textOf(input));
      if (!parsed.ok) return refusal(parsed.problem);
      const { programme } = parsed;
      const again = parseProgramme(programme.canonical);
      must(again.ok && again.programme.canonical === programme.canonical, 'its canonical text is another programme');
      const bands = 'numerator' in programme.rate ? [{ fromPieces: 0, rate: programme.rate }] : programme.rate;
      bands.forEach(({ fromPieces, rate }, i) => {
        checkRate(rate);
        const before = bands[i - 1];
        if (before === undefined) return;
        must(fromPieces > before.fromPieces, 'bands that do not rise');
        must(rate.numerator * before.rate.denominator >= before.rate.numerator * rate.denominator, 'a rate that falls');
      });
      const beneficiaries = programme.baselines.map(
        ({ licensee, customer }) => `${licensee ?? '*'} ${customer ?? '*'}`,
      );
      must(new Set(beneficiaries).size === beneficiaries.length, 'a beneficiary twice');
      must(
        programme.baselines.every(({ pieces }) => Number.isSafeInteger(pieces) && pieces >= 0),
        'a negative baseline',
      );
      const { from, to } = programme.mailingDates;
      must(to === null || from <= to, 'it ends before it begins');
      const twice = inSuccession([programme, programme]);
      must(!twice.ok, 'a version beside itself');
      return ACCEPTED;
    },
  }),
};

function checkRate({ numerator, denominator }: Rate): void {
  must(numerator > 0n && denominator > 0n && numerator <= denominator, 'a rate outside 0 to 1');
}

const CREDENTIAL = 'ab'.repeat(32);
const AUTHORITY = { url: 'http://127.0.0.1:1/', credential: CREDENTIAL };

type Parse = (
  json: unknown,
) =>
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly rejection: { readonly code: string } };

/** Each parser with one full configuration. The first byte of an input says which. */
const CONFIGS: readonly (readonly [string, Parse, object])[] = [
  [
    'server',
    parseServerConfig,
    {
      data: '/d',
      database: 'sqlite:///d/s',
      listen: { host: '127.0.0.1', port: 0 },
      trustBundle: '/t',
      cdSocket: '/a',
      cdSessionSocket: '/b',
      acceptanceSocket: '/c',
      authority: AUTHORITY,
      operatorCredential: CREDENTIAL,
      policy: { highestFundsMills: '5', warnAfterDays: 3 },
    },
  ],
  [
    'authority',
    parseAuthorityConfig,
    {
      data: '/d',
      database: 'sqlite:///d/s',
      listen: { host: '::1', port: 80 },
      trustBundle: '/t',
      credential: CREDENTIAL,
      programmes: ['/p'],
    },
  ],
  [
    'host',
    parseHostConfig,
    {
      data: '/d',
      socket: '/s',
      psdSocket: '/p',
      psdSessionSocket: '/q',
      server: AUTHORITY,
      trustBundle: '/t',
      licensee: 'lic_x',
      customers: 'one',
      transport: 'session',
      forwarding: 'hold',
      holdForMs: 86_400_000,
      submitter: 'x',
      preparer: 'y',
      sheet: 'a4',
      pages: false,
      output: '/o',
      registerCustomers: true,
      firstRefillMills: '1000',
      automaticRefill: true,
      retentionMs: 86_400_000,
      recordsPerDay: 7,
    },
  ],
  [
    'psd',
    parsePsdConfig,
    {
      data: '/d',
      socket: '/s',
      sessionSocket: '/q',
      trustBundle: '/t',
      authentication: 'mac',
      memory: 'host',
      recordCapacity: 5,
    },
  ],
];

const TOML = `authentication = "signature"
transport = "session"
holdFor = "36h"
pages = true
serverPort = 0
deposit = "100.50"
licensee = "lic_x"
`;

/** Texts and numbers of a value, wherever they stand: what a configuration says. Null says nothing. */
function leaves(value: unknown): string[] {
  if (value === null || value === undefined) return [];
  if (typeof value === 'object') return Object.values(value).flatMap(leaves);
  const text = (typeof value === 'string' ? value : (value as number | bigint | boolean).toString()).replace(
    /\/+$/,
    '',
  );
  return [/^\d+$/.test(text) ? String(BigInt(text)) : text];
}

export const configTarget: Target = {
  name: 'config',
  about: 'configurations of all parties (JSON) and of the installation (TOML): nothing that is given is dropped unseen',
  words: ['server', 'authority', 'host', 'psd', 'cli', 'node-platform'],
  maxBytes: 8_192,
  mutations: [(input, material) => join(input.subarray(0, 1), mutateJson(input.subarray(1), material)), mutateNumbers],
  open: () => ({
    seeds: [
      ...CONFIGS.map(([, , config], i) => join(Uint8Array.of(i), encoder.encode(JSON.stringify(config)))),
      join(Uint8Array.of(CONFIGS.length), encoder.encode(TOML)),
    ],
    run: (input) => {
      const which = (input[0] ?? 0) % (CONFIGS.length + 1);
      const text = textOf(input.subarray(1));
      const config = CONFIGS[which];
      if (config === undefined) return tomlOutcome(text);
      const json = jsonOf(text);
      if (json === undefined) return 'not JSON';
      const parsed = config[1](json);
      if (!parsed.ok) return parsed.rejection.code;
      const taken = new Set(leaves(parsed.value));
      for (const leaf of leaves(json)) must(taken.has(leaf), `${config[0]}: a setting was dropped: ${leaf}`);
      return ACCEPTED;
    },
  }),
};

function tomlOutcome(text: string): string {
  let value: unknown;
  try {
    value = parseToml(text);
  } catch (error) {
    // What `readTomlFile` turns into a rejection: the library's own errors.
    must(error instanceof Error && error.name !== 'RangeError', 'the TOML library overflows');
    return 'not TOML';
  }
  const checked = checkSettings(value as Record<string, unknown>, 'file');
  if (!checked.ok) return checked.rejection.code;
  const complete = completeSettings(checked.value, 'file');
  if (!complete.ok) return complete.rejection.code;
  must(complete.value.deposit >= 0n && complete.value.refill >= 0n, 'a negative amount');
  return ACCEPTED;
}

/** The value, or undefined where the text is no JSON; members that stand twice count once, as for JSON.parse. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
