/**
 * What is wrong with one value of a mailing's row, in words that the row's owner can act on.
 *
 * Guarantees: every check of this package that looks at a row's value answers with a checked value or with one defect
 * that names field, value and cure, from a closed list of codes; `FILE.errors.csv` is made of these. Does not know the
 * row's number, the column's name in the file, or what the command line ends with: the host does.
 */

export type DefectCode =
  | 'unknown-product'
  | 'unknown-level'
  | 'unknown-entry'
  | 'weight-not-a-number'
  | 'weight-not-positive'
  | 'weight-above-highest-step'
  | 'zip-lost-zero'
  | 'zip-malformed'
  | 'zip-unknown-prefix';

export type Defect = {
  readonly code: DefectCode;
  /** What the value was meant to be: `product`, `level`, `entry`, `weight` or `zip`. */
  readonly field: 'product' | 'level' | 'entry' | 'weight' | 'zip';
  /** The value as it was given. */
  readonly value: string;
  /** What to do, as a sentence without its full stop. */
  readonly cure: string;
};

export type Checked<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly defect: Defect };

/** The value that passed. */
export function passed<T>(value: T): { readonly ok: true; readonly value: T } {
  return { ok: true, value };
}

/** The value that did not pass, and why. */
export function defective(
  code: DefectCode,
  field: Defect['field'],
  value: string,
  cure: string,
): { readonly ok: false; readonly defect: Defect } {
  return { ok: false, defect: { code, field, value, cure } };
}
