/**
 * CBOR as a tree that can say everything, also what the product refuses: tags, floats, indefinite lengths, numbers longer
 * than needed, keys twice. For mutations that know the form, and as a judge of the product's strict decoder that shares no
 * code with it.
 */
import { BOUNDS, join, type Material, type Mutation, mutateBytes } from './mutation.ts';
import type { Random } from './random.ts';

type Item =
  | { readonly kind: 'integer'; readonly value: bigint }
  | { readonly kind: 'bytes' | 'text'; readonly value: Uint8Array }
  | { readonly kind: 'list'; readonly items: readonly Item[] }
  | { readonly kind: 'map'; readonly entries: readonly (readonly [Item, Item])[] }
  | { readonly kind: 'tag'; readonly number: bigint; readonly item: Item }
  /** Bytes as they are: simple values, floats, and what a mutation invented. */
  | { readonly kind: 'raw'; readonly value: Uint8Array };

/** What stands in a byte string, and whether it is in the form that the product takes. */
type Read = { readonly item: Item; readonly end: number };

/** Thrown and caught in this file only; one for all, because making one takes longer than reading. */
const MALFORMED = new Error('malformed');

const DEPTH_MAX = 100;

function readHead(bytes: Uint8Array, at: number): { major: number; info: number; argument: bigint; end: number } {
  const first = bytes[at];
  if (first === undefined) throw MALFORMED;
  const info = first & 31;
  const size = info < 24 ? 0 : info < 28 ? 1 << (info - 24) : info === 31 ? 0 : -1;
  if (size < 0 || at + 1 + size > bytes.length) throw MALFORMED;
  let argument = info;
  let high = 0;
  if (size > 0) {
    argument = 0;
    for (let i = 1; i <= size; i++) {
      if (size === 8 && i === 5) {
        high = argument;
        argument = 0;
      }
      argument = argument * 256 + (bytes[at + i] as number);
    }
  }
  const whole = high === 0 ? BigInt(argument) : (BigInt(high) << 32n) | BigInt(argument);
  return { major: first >> 5, info, argument: whole, end: at + 1 + size };
}

function readItem(bytes: Uint8Array, at: number, depth: number): Read {
  if (depth > DEPTH_MAX) throw MALFORMED;
  const { major, info, argument, end } = readHead(bytes, at);
  if (info === 31 || major === 7) {
    if (major === 7 && info !== 31) return { item: { kind: 'raw', value: bytes.slice(at, end) }, end };
    return readIndefinite(bytes, at, major, depth);
  }
  if (major === 0) return { item: { kind: 'integer', value: argument }, end };
  if (major === 1) return { item: { kind: 'integer', value: -1n - argument }, end };
  if (major === 6) {
    const inner = readItem(bytes, end, depth + 1);
    return { item: { kind: 'tag', number: argument, item: inner.item }, end: inner.end };
  }
  if (argument > BigInt(bytes.length - end)) throw MALFORMED;
  const length = Number(argument);
  if (major === 2 || major === 3) {
    return {
      item: { kind: major === 2 ? 'bytes' : 'text', value: bytes.slice(end, end + length) },
      end: end + length,
    };
  }
  let next = end;
  const take = (): Item => {
    const read = readItem(bytes, next, depth + 1);
    next = read.end;
    return read.item;
  };
  if (major === 4) {
    const items: Item[] = [];
    for (let i = 0; i < length; i++) items.push(take());
    return { item: { kind: 'list', items }, end: next };
  }
  const entries: (readonly [Item, Item])[] = [];
  for (let i = 0; i < length; i++) entries.push([take(), take()]);
  return { item: { kind: 'map', entries }, end: next };
}

/** As the definite form of the same, so that mutations keep its content. */
function readIndefinite(bytes: Uint8Array, at: number, major: number, depth: number): Read {
  if (major < 2 || major > 5) throw MALFORMED;
  const items: Item[] = [];
  let next = at + 1;
  while (bytes[next] !== 0xff) {
    const read = readItem(bytes, next, depth + 1);
    items.push(read.item);
    next = read.end;
  }
  const end = next + 1;
  if (major === 4) return { item: { kind: 'list', items }, end };
  if (major === 5) {
    const entries = items.flatMap((key, i) =>
      i % 2 === 0 && i + 1 < items.length ? [[key, items[i + 1] as Item] as const] : [],
    );
    return { item: { kind: 'map', entries }, end };
  }
  const parts = items.map((item) => (item.kind === 'bytes' || item.kind === 'text' ? item.value : new Uint8Array()));
  return { item: { kind: major === 2 ? 'bytes' : 'text', value: join(...parts) }, end };
}

/** The first item of the bytes, and where it ends; null where there is none. */
function read(bytes: Uint8Array): Read | null {
  try {
    return readItem(bytes, 0, 0);
  } catch (error) {
    if (error === MALFORMED) return null;
    throw error;
  }
}

function head(major: number, argument: bigint): Uint8Array {
  if (argument < 24n) return Uint8Array.of((major << 5) | Number(argument));
  const size = argument < 1n << 8n ? 1 : argument < 1n << 16n ? 2 : argument < 1n << 32n ? 4 : 8;
  return headOf(major, argument, size);
}

function headOf(major: number, argument: bigint, size: number): Uint8Array {
  const bytes = Buffer.alloc(9);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, argument), 1);
  const cut = bytes.subarray(9 - size);
  return join(Uint8Array.of((major << 5) | (24 + Math.log2(size))), cut);
}

/** Writes the tree; with `random`, now and then in a form that is not the deterministic one. */
function write(item: Item, random: Random | null): Uint8Array {
  const quirk = (): boolean => random?.once(40) ?? false;
  const start = (major: number, argument: bigint): Uint8Array =>
    random !== null && quirk() ? headOf(major, argument, random.pick([1, 2, 4, 8])) : head(major, argument);
  const group = (major: number, count: number, content: readonly Uint8Array[]): Uint8Array => {
    if (quirk()) return join(Uint8Array.of((major << 5) | 31), ...content, Uint8Array.of(0xff));
    return join(start(major, BigInt(quirk() ? count + 1 : count)), ...content);
  };
  switch (item.kind) {
    case 'integer':
      return item.value >= 0n ? start(0, item.value) : start(1, -1n - item.value);
    case 'bytes':
    case 'text': {
      const major = item.kind === 'bytes' ? 2 : 3;
      if (quirk()) {
        return join(
          Uint8Array.of((major << 5) | 31),
          head(major, BigInt(item.value.length)),
          item.value,
          Uint8Array.of(0xff),
        );
      }
      return join(start(major, BigInt(item.value.length)), item.value);
    }
    case 'list':
      return group(
        4,
        item.items.length,
        item.items.map((entry) => write(entry, random)),
      );
    case 'map': {
      const entries = item.entries.map(([key, value]) => [write(key, random), write(value, random)] as const);
      if (!quirk()) entries.sort(([one], [other]) => Buffer.compare(one, other));
      const flat = entries.map(([key, value]) => join(key, value));
      return group(5, flat.length, flat);
    }
    case 'tag':
      return join(start(6, item.number), write(item.item, random));
    case 'raw':
      return item.value;
  }
}

/**
 * Why the bytes are not one item in the product's deterministic form, by this file's own reading, or null where they are:
 * RFC 8949, 4.2.1, without floats, tags, undefined or other simple values, keys integers or texts.
 */
export function strictDefect(bytes: Uint8Array, maxDepth: number): string | null {
  const parsed = read(bytes);
  if (parsed === null) return 'not CBOR';
  if (parsed.end !== bytes.length) return 'bytes after the item';
  const canonical = write(parsed.item, null);
  if (Buffer.compare(canonical, bytes) !== 0) return 'not deterministic';
  return itemDefect(parsed.item, maxDepth);
}

function itemDefect(item: Item, depthLeft: number): string | null {
  if (item.kind === 'tag') return 'a tag';
  if (item.kind === 'raw')
    return [0xf4, 0xf5, 0xf6].includes(item.value[0] ?? 0) && item.value.length === 1 ? null : 'a simple value';
  if (item.kind === 'text') {
    try {
      const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(item.value);
      return text.startsWith('\ufeff') ? 'a byte order mark' : null;
    } catch {
      return 'not UTF-8';
    }
  }
  if (item.kind !== 'list' && item.kind !== 'map') return null;
  if (depthLeft === 0) return 'too deep';
  if (item.kind === 'list') {
    for (const entry of item.items) {
      const defect = itemDefect(entry, depthLeft - 1);
      if (defect !== null) return defect;
    }
    return null;
  }
  const keys = new Set<string>();
  for (const [key, value] of item.entries) {
    if (key.kind !== 'integer' && key.kind !== 'text') return 'a key of another type';
    const written = Buffer.from(write(key, null)).toString('hex');
    if (keys.has(written)) return 'a key twice';
    keys.add(written);
    const defect = itemDefect(key, depthLeft - 1) ?? itemDefect(value, depthLeft - 1);
    if (defect !== null) return defect;
  }
  return null;
}

/** How many lists and maps there are: the product bounds them. */
export function containers(bytes: Uint8Array): number {
  const count = (item: Item): number => {
    if (item.kind === 'list') return item.items.reduce((sum, entry) => sum + count(entry), 1);
    if (item.kind === 'map') return item.entries.reduce((sum, [key, value]) => sum + count(key) + count(value), 1);
    return item.kind === 'tag' ? count(item.item) : 0;
  };
  const parsed = read(bytes);
  return parsed === null ? 0 : count(parsed.item);
}

/** Changes one item of the tree, or of a tree inside one of its byte strings. */
export const mutateCbor: Mutation = (input, material) => {
  const parsed = read(input);
  if (parsed === null) return mutateBytes(input, material);
  const { random, maxBytes } = material;
  const items = count(parsed.item);
  const changed = mutateAt(parsed.item, { left: random.below(items) }, material, 0);
  const rest = random.once(60) ? random.bytes(1 + random.below(3)) : input.subarray(parsed.end);
  const written = join(write(changed, random.once(3) ? random : null), rest);
  return written.length > maxBytes ? mutateBytes(input, material) : written;
};

function count(item: Item): number {
  if (item.kind === 'list') return item.items.reduce((sum, entry) => sum + count(entry), 1);
  if (item.kind === 'map') return item.entries.reduce((sum, [key, value]) => sum + count(key) + count(value), 1);
  return item.kind === 'tag' ? 1 + count(item.item) : 1;
}

function mutateAt(item: Item, place: { left: number }, material: Material, depth: number): Item {
  if (place.left === 0) {
    place.left = -1;
    return mutateItem(item, material, depth);
  }
  if (place.left < 0) return item;
  place.left -= 1;
  const into = (inner: Item): Item => (place.left < 0 ? inner : mutateAt(inner, place, material, depth));
  if (item.kind === 'list') return { kind: 'list', items: item.items.map(into) };
  if (item.kind === 'map')
    return { kind: 'map', entries: item.entries.map(([key, value]) => [into(key), into(value)]) };
  return item.kind === 'tag' ? { ...item, item: into(item.item) } : item;
}

const encoder = new TextEncoder();

function mutateItem(item: Item, material: Material, depth: number): Item {
  const { random } = material;
  if (random.once(6)) return invented(material);
  switch (item.kind) {
    case 'integer': {
      const change = random.pick([
        item.value + 1n,
        item.value - 1n,
        -item.value,
        random.pick(BOUNDS),
        -1n - random.pick(BOUNDS),
      ]);
      return { kind: 'integer', value: BigInt.asIntN(65, change) };
    }
    case 'bytes':
      if (item.value.length > 1 && depth < 3 && random.once(2)) return inside(item.value, material, depth);
      return { kind: 'bytes', value: mutateBytes(item.value, { ...material, maxBytes: item.value.length + 64 }) };
    case 'text':
      if (random.once(3)) return { kind: 'text', value: encoder.encode(word(material)) };
      return { kind: 'text', value: mutateBytes(item.value, { ...material, maxBytes: item.value.length + 64 }) };
    case 'list':
      return { kind: 'list', items: mutateList(item.items, () => invented(material), random) };
    case 'map': {
      const fresh = (): readonly [Item, Item] => [
        random.once(2)
          ? { kind: 'integer', value: BigInt(random.below(32)) }
          : { kind: 'text', value: encoder.encode(word(material)) },
        invented(material),
      ];
      if (random.once(4) && item.entries.length > 1) {
        const [[, one], [, other]] = [random.pick(item.entries), random.pick(item.entries)];
        return { kind: 'map', entries: item.entries.map(([key, value]) => [key, value === one ? other : value]) };
      }
      return { kind: 'map', entries: mutateList(item.entries, fresh, random) };
    }
    case 'tag':
      return random.once(2) ? item.item : { ...item, number: random.pick(BOUNDS) };
    case 'raw':
      return invented(material);
  }
}

/** A byte string that holds CBOR again: header, payload, a message in a message; an envelope begins with a tag. */
function inside(value: Uint8Array, material: Material, depth: number): Item {
  const parsed = read(value);
  if (parsed?.end !== value.length || parsed.item.kind === 'integer') {
    return { kind: 'bytes', value: mutateBytes(value, { ...material, maxBytes: value.length + 64 }) };
  }
  const changed = mutateAt(parsed.item, { left: material.random.below(count(parsed.item)) }, material, depth + 1);
  return { kind: 'bytes', value: write(changed, material.random.once(4) ? material.random : null) };
}

function mutateList<T>(items: readonly T[], fresh: () => T, random: Random): readonly T[] {
  const at = random.below(items.length + 1);
  const one = items[at];
  if (one === undefined || random.once(4)) return [...items.slice(0, at), fresh(), ...items.slice(at)];
  switch (random.below(4)) {
    case 0:
      return items.filter((_, i) => i !== at);
    case 1:
      return [...items.slice(0, at), one, ...items.slice(at)];
    case 2:
      return items.toReversed();
    default:
      return Array.from({ length: random.pick([2, 16, 300]) }, () => one);
  }
}

function word({ random, words }: Material): string {
  const text = words.length === 0 ? 'x' : random.pick(words);
  return random.pick([
    text,
    '',
    `${text}${text}`,
    `\ufeff${text}`,
    text.toUpperCase(),
    `${text}\u0000`,
    'x'.repeat(300),
    '😀',
  ]);
}

function invented(material: Material): Item {
  const { random } = material;
  switch (random.below(9)) {
    case 0:
      return { kind: 'integer', value: random.pick(BOUNDS) };
    case 1:
      return { kind: 'integer', value: -1n - random.pick(BOUNDS) };
    case 2:
      return { kind: 'text', value: encoder.encode(word(material)) };
    case 3:
      return { kind: 'bytes', value: random.bytes(random.pick([0, 1, 16, 32, 64, 65])) };
    case 4: {
      const parsed = read(material.other());
      return parsed?.item ?? { kind: 'list', items: [] };
    }
    case 5:
      return { kind: 'list', items: [] };
    case 6:
      return { kind: 'map', entries: [] };
    case 7: {
      let nested: Item = { kind: 'list', items: [] };
      for (let i = random.below(30); i > 0; i--) {
        nested = random.once(2)
          ? { kind: 'list', items: [nested] }
          : { kind: 'map', entries: [[{ kind: 'integer', value: 0n }, nested]] };
      }
      return nested;
    }
    default:
      return {
        kind: 'raw',
        value: random.pick([
          Uint8Array.of(0xf4),
          Uint8Array.of(0xf5),
          Uint8Array.of(0xf6),
          Uint8Array.of(0xf7),
          Uint8Array.of(0xe0),
          Uint8Array.of(0xf8, 0x20),
          Uint8Array.of(0xf9, 0x3c, 0),
          Uint8Array.of(0xfa, 0x7f, 0x80, 0, 0),
          Uint8Array.of(0xfb, 0x40, 9, 0, 0, 0, 0, 0, 0),
          Uint8Array.of(0xff),
          Uint8Array.of(0x1c),
        ]),
      };
  }
}
