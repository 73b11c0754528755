/**
 * The one catalogue of rejections: every way in which an input can be refused, with stable codes.
 *
 * Guarantees: a code never changes its meaning; each says what had been verified by then, what state the refusal left,
 * and what to do now. `docs/errors.md` is generated from this file. Faults (a broken disk, a lost connection) are not
 * rejections: they are thrown as `Fault`.
 */
import { type Currency, formatMills } from './money.ts';
import { CATALOGUE, type RejectionCode } from './rejection-catalogue.ts';

export type { RejectionCode } from './rejection-catalogue.ts';

export type RejectionDetail = Readonly<Record<string, string | number>>;

export type Rejection = { readonly code: RejectionCode; readonly detail: RejectionDetail };

/** Exit codes of the command line, everywhere. */
export const EXIT = { done: 0, usage: 2, input: 3, funds: 4, unconfirmed: 5, locked: 6, fault: 70 } as const;

/** Builds a rejection. Details are for people and never hold secrets. */
export function rejection(code: RejectionCode, detail: RejectionDetail): Rejection {
  return { code, detail };
}

/** The details that say in which currency the amounts of a rejection are. */
export function inCurrency({ code, exponent }: Currency): RejectionDetail {
  return { currency: code, exponent };
}

/** One or two sentences for people: what happened, to what, what it left, what to do now. */
export function describeRejection(refused: Rejection): string {
  const { happened, state, cure } = CATALOGUE[refused.code];
  return filledIn(`${happened} ${state} ${cure}`, refused);
}

/** Only what happened, and to what: for findings, which leave nothing behind and ask for nothing yet. */
export function describeFinding(refused: Rejection): string {
  return filledIn(CATALOGUE[refused.code].happened, refused);
}

function filledIn(text: string, { detail }: Rejection): string {
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = String(detail[name] ?? '?');
    return name.endsWith('Mills') ? amountWords(value, detail) : value;
  });
}

/** An amount in its currency, where `currency` and `exponent` stand among the details. */
function amountWords(amount: string, { currency, exponent }: RejectionDetail): string {
  const isKnown = typeof currency === 'string' && typeof exponent === 'number' && /^-?\d+$/.test(amount);
  return isKnown ? formatMills(BigInt(amount), { code: currency, exponent }) : `${amount} mills`;
}

/** Whether a text is a code of the catalogue. */
export function isRejectionCode(code: string): code is RejectionCode {
  return Object.hasOwn(CATALOGUE, code);
}
