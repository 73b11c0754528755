/**
 * A target: something that parses bytes from outside, with what must hold for every input.
 */
import type { Mutation } from './mutation.ts';

export type Target = {
  readonly name: string;
  /** One line: what is driven, and what is checked. */
  readonly about: string;

  /** Packages whose words its inputs may be made of. */
  readonly words: readonly string[];
  readonly maxBytes: number;
  readonly mutations: readonly Mutation[];
  /** Prepares it in this process; what it returns drives one input after the other. */
  open(folder: string): Opened | Promise<Opened>;
};

export type Opened = {
  /** Inputs to begin with. */
  readonly seeds: readonly Uint8Array[];
  /**
   * Drives one input. Returns `accepted`, or the code with which the input was refused. Anything thrown is a finding: a
   * {@link Violation} of what must hold, or a crash.
   */
  run(input: Uint8Array): string | Promise<string>;
  close?(): Promise<void> | void;
};

/** Something that must hold did not. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

/** @throws Violation unless it holds. */
export function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Violation(what);
}

/** @throws Violation unless both are the same bytes. */
export function mustEqual(one: Uint8Array, other: Uint8Array, what: string): void {
  if (Buffer.compare(one, other) !== 0) throw new Violation(what);
}

export const ACCEPTED = 'accepted';
