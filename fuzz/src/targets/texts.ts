/**
 * Small texts that people type and clients send: weights, ZIP Codes, amounts, durations, piece numbers, and the JSON
 * parameters of the host's socket.
 */
import { formatDuration, parseDuration } from '@countermark/node-platform/duration';
import { hostHandlers } from '@countermark/host/api';
import { parseNumbers } from '@countermark/host/piece-numbers';
import type { HostService } from '@countermark/host/service';
import { encode } from '@countermark/protocol/cbor';
import { decimalMills, parseDecimalMills } from '@countermark/protocol/money';
import { accept } from '@countermark/protocol/result';
import { parseWeight, type WeightUnit } from '@countermark/tariff/weight';
import { checkZip } from '@countermark/tariff/zip';
import { decode } from '@countermark/protocol/cbor';
import { mutateJson } from '../json-tree.ts';
import { join, type Mutation, mutateNumbers } from '../mutation.ts';
import { ACCEPTED, must, Violation, type Target } from '../target.ts';

const encoder = new TextEncoder();

/** Each kind of text, with examples. The first byte of an input says which. */
const KINDS: readonly (readonly [readonly string[], (text: string) => boolean])[] = [
  [['0.95', '1', '999999999.999999', '0.000001'], weight],
  [['02108', '10001-1234', '2108', '941051234'], zip],
  [['250', '250.00', '0.740', '999999999999999.999999'], amount],
  [['1d', '36h', '1d12h30m', '500ms'], duration],
  [['12', '20-25', '1,2,3-4'], numbers],
];

function weight(text: string): boolean {
  for (const unit of ['oz', 'lb', 'g', 'mg'] as const satisfies readonly WeightUnit[]) {
    const parsed = parseWeight(text, unit);
    if (!parsed.ok) return false;
    must(parsed.value > 0n, 'a weight of nothing');
    must(/^\d{1,9}(\.\d{1,6})?$/.test(text), 'a weight in another form');
  }
  return true;
}

function zip(text: string): boolean {
  const parsed = checkZip(text);
  must(!parsed.ok || /^\d{5}(-\d{4})?$/.test(text), 'a ZIP Code in another form');
  return parsed.ok;
}

function amount(text: string): boolean {
  let taken = false;
  for (const exponent of [0, 2, 3, 6]) {
    const mills = parseDecimalMills(text, exponent);
    if (mills === null) continue;
    taken = true;
    const again = parseDecimalMills(decimalMills(mills, exponent), exponent);
    must(again === mills, 'an amount that is written back as another');
  }
  return taken;
}

function duration(text: string): boolean {
  const durationMs = parseDuration(text);
  if (durationMs === undefined) return false;
  must(parseDuration(formatDuration(durationMs)) === durationMs, 'a duration that is written back as another');
  return true;
}

function numbers(text: string): boolean {
  const parsed = parseNumbers([text]);
  if (!parsed.ok) return false;
  must(
    parsed.value.every((number, i) => number >= 1 && number <= 0xffff_ffff && number > (parsed.value[i - 1] ?? 0)),
    'piece numbers that do not rise, or are none',
  );
  return true;
}

export const textsTarget: Target = {
  name: 'texts',
  about: 'weights, ZIP Codes, amounts, durations, piece numbers: within their form and bounds, written back the same',
  words: ['tariff'],
  maxBytes: 200,
  mutations: [mutateNumbers],
  open: () => ({
    seeds: KINDS.flatMap(([examples], i) => examples.map((text) => join(Uint8Array.of(i), encoder.encode(text)))),
    run: (input) => {
      const [, check] = KINDS[(input[0] ?? 0) % KINDS.length] as (typeof KINDS)[number];
      return check(Buffer.from(input.subarray(1)).toString()) ? ACCEPTED : 'refused';
    },
  }),
};

/** Whatever is asked of it was checked: it answers that it was reached. */
function reachedService(): HostService {
  const reached = (): unknown =>
    new Proxy(() => accept({}), {
      get: (target, name) => (name === 'then' ? undefined : reached()),
      apply: () => accept([]),
    });
  return reached() as HostService;
}

const EXAMPLES: readonly (readonly [string, object])[] = [
  ['frank', { file: '/a', job: 'j', acceptGood: true, encoding: 'utf-8', mailingDate: '2026-11-22', keepOpen: false }],
  ['dry-run', { file: '/a', tariff: 'usps-2025-07-13' }],
  ['wait', { job: 'j', timeoutMs: 5 }],
  ['batch', { batch: 'b', pieceNumber: 1, pieceRef: 'r', row: 2, job: 'j' }],
  ['spoil', { numbers: ['1', '2-4'] }],
  ['refill', { amount: '250.00' }],
  ['refill', { amountMills: '1000' }],
  ['enrol', { customers: ['a'] }],
  ['import-records', { directory: '/d' }],
];

const mutateCall: Mutation = (input, material) => join(input.subarray(0, 1), mutateJson(input.subarray(1), material));

export const hostApiTarget: Target = {
  name: 'host-api',
  about:
    "JSON parameters of the host's operations: checked before anything is done, refused with a code of the catalogue",
  words: ['host', 'protocol'],
  maxBytes: 8_192,
  mutations: [mutateCall, mutateCall],
  open: () => {
    const handlers = hostHandlers(reachedService());
    const names = Object.keys(handlers);
    const context = { progress: () => undefined, signal: new AbortController().signal };
    return {
      seeds: EXAMPLES.map(([name, parameters]) =>
        join(Uint8Array.of(names.indexOf(name)), encoder.encode(JSON.stringify(parameters))),
      ),
      run: async (input) => {
        const name = names[(input[0] ?? 0) % names.length] ?? '';
        const handler = handlers[name];
        if (handler === undefined) throw new Violation(`no handler ${name}`);
        const text = Buffer.from(input.subarray(1)).toString();
        const wire = decode(encode(new Map([[1, text.replace(/^\ufeff/, '')]])));
        must(wire.ok, 'a text does not travel');
        const answer = await handler(wire.value, context);
        return answer.ok ? ACCEPTED : answer.rejection.code;
      },
    };
  },
};
