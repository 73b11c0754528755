/**
 * Branded types: a value whose type says which check it has passed.
 *
 * Guarantees that ids and amounts of different meaning cannot be exchanged for each other at compile time.
 * Does not check anything at run time: only the constructors beside each brand do.
 */

declare const brand: unique symbol;

/** `T` that has passed the check named `Name`. */
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };
