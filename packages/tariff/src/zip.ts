/**
 * ZIP Codes: form, and whether the 3-digit prefix is one that the post uses.
 *
 * Guarantees: a checked ZIP Code is five digits, or five, a hyphen and four, with a prefix of DMM labeling list L601 of
 * 2025-05-01. A leading zero that a spreadsheet dropped is recognised and its cure named; nothing is repaired silently.
 * Does not know single ZIP Codes, nor whether city, state and ZIP Code fit together, nor ADC and AADC areas.
 */
import type { Brand } from '@countermark/protocol/brand';
import { type Checked, defective, passed } from './defect.ts';
import { USPS_ZIP_PREFIXES } from './usps-zip-prefixes.ts';

/** `02139` or `02139-4307`. */
export type ZipCode = Brand<string, 'ZipCode'>;

const PREFIXES: ReadonlySet<string> = expandPrefixes(
  (JSON.parse(USPS_ZIP_PREFIXES) as { prefixes: readonly string[] }).prefixes,
);

/** Checks a ZIP Code as a row gives it, white space around it already removed. */
export function checkZip(text: string): Checked<ZipCode> {
  const match = /^(\d{3,9})(?:-(\d{4}))?$/.exec(text);
  const digits = match?.[1] ?? '';
  const plus4 = match?.[2];
  const whole = digits.length === 5 || (plus4 === undefined && digits.length === 9);
  const zip5 = whole ? digits.slice(0, 5) : padded(digits, plus4);
  if (zip5 === null || (!whole && !hasKnownPrefix(zip5))) {
    return defective('zip-malformed', 'zip', text, 'write five digits, such as 02139, or nine as 02139-4307');
  }
  const rest = plus4 ?? (digits.length > 5 ? digits.slice(-4) : undefined);
  const written = rest === undefined ? zip5 : `${zip5}-${rest}`;
  if (!whole) {
    return defective(
      'zip-lost-zero',
      'zip',
      text,
      `write ${written}: a spreadsheet dropped the leading zero (make the column text)`,
    );
  }
  if (!hasKnownPrefix(zip5)) {
    const cure = `no ZIP Code begins with ${zip5.slice(0, 3)}: correct it against the address`;
    return defective('zip-unknown-prefix', 'zip', text, cure);
  }
  if (written !== text) return defective('zip-malformed', 'zip', text, `write ${written}`);
  return passed(text as ZipCode);
}

/** The first five digits: what presort groups are made of. */
export function zip5Of(zip: ZipCode): string {
  return zip.slice(0, 5);
}

/** Five digits from three or four (or seven or eight without a hyphen) whose zeros were dropped; null for other lengths. */
function padded(digits: string, plus4: string | undefined): string | null {
  const short = plus4 === undefined && (digits.length === 7 || digits.length === 8) ? digits.slice(0, -4) : digits;
  return short.length === 3 || short.length === 4 ? short.padStart(5, '0') : null;
}

function hasKnownPrefix(zip5: string): boolean {
  return PREFIXES.has(zip5.slice(0, 3));
}

/** `["005-007", "010"]` -> the four prefixes. */
function expandPrefixes(ranges: readonly string[]): Set<string> {
  const prefixes = new Set<string>();
  for (const range of ranges) {
    const [first = '', last = first] = range.split('-');
    for (let prefix = Number(first); prefix <= Number(last); prefix += 1) {
      prefixes.add(String(prefix).padStart(3, '0'));
    }
  }
  return prefixes;
}
