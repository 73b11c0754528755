/**
 * JSON as a tree that can say everything, also what a parser should refuse or stumble over: members twice, numbers of any
 * size, deep nesting, lone surrogates. For mutations that know the form.
 */
import { BOUNDS, type Material, type Mutation, mutateBytes } from './mutation.ts';

/** A value: its own text, or members. */
type Json =
  | { readonly kind: 'raw'; readonly text: string }
  | { readonly kind: 'list'; readonly items: readonly Json[] }
  | { readonly kind: 'object'; readonly members: readonly (readonly [string, Json])[] };

const encoder = new TextEncoder();

function treeOf(value: unknown): Json {
  if (Array.isArray(value)) return { kind: 'list', items: value.map(treeOf) };
  if (typeof value !== 'object' || value === null) return { kind: 'raw', text: JSON.stringify(value) };
  return { kind: 'object', members: Object.entries(value).map(([name, member]) => [name, treeOf(member)]) };
}

function textOf(json: Json): string {
  if (json.kind === 'raw') return json.text;
  if (json.kind === 'list') return `[${json.items.map(textOf).join(',')}]`;
  return `{${json.members.map(([name, member]) => `${JSON.stringify(name)}:${textOf(member)}`).join(',')}}`;
}

function count(json: Json): number {
  if (json.kind === 'raw') return 1;
  if (json.kind === 'list') return json.items.reduce((sum, item) => sum + count(item), 1);
  return json.members.reduce((sum, [, member]) => sum + count(member), 1);
}

/** Changes one value or member. What is not JSON is changed as bytes. */
export const mutateJson: Mutation = (input, material) => {
  try {
    const tree = treeOf(JSON.parse(Buffer.from(input).toString()));
    const place = { left: material.random.below(count(tree)) };
    const changed = encoder.encode(textOf(mutateAt(tree, place, material)));
    if (changed.length <= material.maxBytes) return changed;
  } catch {
    // Not JSON, or nested deeper than these functions go.
  }
  return mutateBytes(input, material);
};

function mutateAt(json: Json, place: { left: number }, material: Material): Json {
  if (place.left === 0) {
    place.left = -1;
    return mutateValue(json, material);
  }
  if (place.left < 0) return json;
  place.left -= 1;
  const into = (inner: Json): Json => (place.left < 0 ? inner : mutateAt(inner, place, material));
  if (json.kind === 'list') return { kind: 'list', items: json.items.map(into) };
  if (json.kind === 'object') {
    return { kind: 'object', members: json.members.map(([name, member]) => [name, into(member)]) };
  }
  return json;
}

function mutateValue(json: Json, material: Material): Json {
  const { random } = material;
  if (random.once(3)) return invented(material);
  if (json.kind === 'raw') return changedText(json.text, material);
  const at = random.below((json.kind === 'list' ? json.items.length : json.members.length) + 1);
  if (json.kind === 'list') {
    const one = json.items[at];
    if (one === undefined || random.once(3)) {
      return { kind: 'list', items: [...json.items.slice(0, at), invented(material), ...json.items.slice(at)] };
    }
    return random.pick<Json>([
      { kind: 'list', items: json.items.filter((_, i) => i !== at) },
      { kind: 'list', items: [...json.items, one] },
      { kind: 'list', items: json.items.toReversed() },
      { kind: 'list', items: Array.from({ length: 300 }, () => one) },
      one,
    ]);
  }
  const one = json.members[at];
  if (one === undefined || random.once(3)) {
    const fresh = [name(material), invented(material)] as const;
    return { kind: 'object', members: [...json.members.slice(0, at), fresh, ...json.members.slice(at)] };
  }
  const others = json.members.filter((_, i) => i !== at);
  return random.pick<Json>([
    { kind: 'object', members: others },
    { kind: 'object', members: [...json.members, one] },
    { kind: 'object', members: [...others, [name(material), one[1]]] },
    { kind: 'object', members: [...others, [one[0], random.pick(json.members)[1]]] },
    { kind: 'object', members: json.members.toReversed() },
    one[1],
  ]);
}

function name({ random, words }: Material): string {
  return random.pick([
    '__proto__',
    'constructor',
    'toString',
    'length',
    '',
    words.length === 0 ? 'x' : random.pick(words),
  ]);
}

function changedText(text: string, material: Material): Json {
  const { random } = material;
  if (/^-?\d/.test(text)) {
    const numbers = [
      `${text}.5`,
      `-${text}`,
      `${text}e3`,
      `${text}0`,
      JSON.stringify(text),
      String(random.pick(BOUNDS)),
    ];
    return { kind: 'raw', text: random.pick(numbers).replace(/^--/, '') };
  }
  if (!text.startsWith('"')) return invented(material);
  const content = JSON.parse(text) as string;
  const changed = mutateBytes(encoder.encode(content), { ...material, maxBytes: 2_000 });
  return { kind: 'raw', text: JSON.stringify(Buffer.from(changed).toString()) };
}

function invented(material: Material): Json {
  const { random, words } = material;
  const raw = (text: string): Json => ({ kind: 'raw', text });
  switch (random.below(8)) {
    case 0:
      return raw(random.pick(['null', 'true', 'false', '0', '-0', '1e400', '-1', '0.1', '1.0', '1E2', '""', '" "']));
    case 1:
      return raw(String(random.pick(BOUNDS)));
    case 2:
      return raw(JSON.stringify(words.length === 0 ? 'x' : random.pick(words)));
    case 3:
      return raw(
        random.pick(['"\\ud800"', '"\\u0000"', '"\\ufeff"', '"\\u202e"', `"${'x'.repeat(400)}"`, '"2026-02-30"']),
      );
    case 4:
      return { kind: 'list', items: [] };
    case 5:
      return { kind: 'object', members: [] };
    case 6: {
      const depth = random.pick([3, 100, 5_000]);
      return raw('['.repeat(depth) + ']'.repeat(depth));
    }
    default: {
      try {
        return treeOf(JSON.parse(Buffer.from(material.other()).toString()));
      } catch {
        return raw(`"${random.below(1_000_000)}"`);
      }
    }
  }
}
