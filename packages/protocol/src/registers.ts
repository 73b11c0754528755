/**
 * The registers of a PSD (design, invariant 2).
 *
 * Guarantees: ascending + descending = funds received - funds returned, at every step, or the step is refused.
 * Does not persist anything.
 */
import type { Mills } from './money.ts';
import { mills } from './money.ts';
import { field, millsSchema, type Of, struct, uint } from './schema.ts';

/**
 * `ascendingMills`: all postage ever debited; `descendingMills`: what is left to frank with; `pieces`: how many were
 * ever franked, which is also the number of the last piece.
 */
export const registersSchema = struct('registers', {
  ascendingMills: field(1, millsSchema),
  descendingMills: field(2, millsSchema),
  pieces: field(3, uint(0xffff_ffff)),
});
export type Registers = Of<typeof registersSchema>;

/** Funds of a device's life: `lastGrant` is the number of the last funds request that was granted, 0 for none. */
export const fundsSchema = struct('funds', {
  receivedMills: field(1, millsSchema),
  returnedMills: field(2, millsSchema),
  lastGrant: field(3, uint(0xffff_ffff)),
});
export type Funds = Of<typeof fundsSchema>;

export const ZERO_REGISTERS: Registers = { ascendingMills: mills(0n), descendingMills: mills(0n), pieces: 0 };
export const NO_FUNDS: Funds = { receivedMills: mills(0n), returnedMills: mills(0n), lastGrant: 0 };

/** Control total: ascending + descending; equal to all funds received minus all returned. */
export function controlTotalMills(registers: Registers): Mills {
  return mills(registers.ascendingMills + registers.descendingMills);
}

/** Whether invariant 2 holds. */
export function balanced(registers: Registers, funds: Funds): boolean {
  return registers.ascendingMills + registers.descendingMills === funds.receivedMills - funds.returnedMills;
}

/** The registers after a debit, or null if the descending register does not cover it. */
export function debit(registers: Registers, postageMills: bigint, pieces: number): Registers | null {
  if (postageMills > registers.descendingMills) return null;
  return {
    ascendingMills: mills(registers.ascendingMills + postageMills),
    descendingMills: mills(registers.descendingMills - postageMills),
    pieces: registers.pieces + pieces,
  };
}
