/**
 * The one text of a JSON value, so that a tariff's digest depends on its prices and not on a formatter.
 *
 * Guarantees: object keys sorted by UTF-16 code unit, no white space, strings as `JSON.stringify` writes them; this is
 * RFC 8785 (JCS) for the values that are allowed here. Numbers are safe integers only, so number formatting cannot
 * differ between languages. Not a general JSON canonicaliser: a fraction is refused.
 */

/**
 * @param value a value as `JSON.parse` returns it.
 * @throws TypeError for a number that is not a safe integer, and for anything that JSON does not have.
 */
export function canonicalText(value: unknown): string {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number' && Number.isSafeInteger(value)) return String(value);
  if (Array.isArray(value)) return `[${value.map(canonicalText).join(',')}]`;
  if (typeof value === 'object') {
    const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${members.map(([key, member]) => `${JSON.stringify(key)}:${canonicalText(member)}`).join(',')}}`;
  }
  throw new TypeError(`A ${typeof value} that is no safe integer, text, list or object has no canonical text.`);
}
