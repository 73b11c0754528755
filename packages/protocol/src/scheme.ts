/**
 * Schemes: which dimensions the cells of a batch's statistics have. Data, because every post wants others.
 *
 * Guarantees that a scheme's number never changes its meaning. Scheme 1 is the only one that this version speaks; a
 * record of another is answered with `unsupported-version` by its own field.
 */
export const SCHEME = 1;

/** The dimensions of each scheme, in their order on the wire. */
export const SCHEMES: Readonly<Record<number, readonly string[]>> = {
  1: ['product', 'shape', 'affixed', 'level', 'entry', 'weightStep'],
};
