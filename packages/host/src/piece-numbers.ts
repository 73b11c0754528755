/**
 * Piece numbers as people write them: single ones, lists and ranges.
 *
 * Guarantees: each number once, ascending, and within what a device can count. Does not know which were franked.
 */
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';

/** Numbers and ranges: `12`, `20-25`. Rejection: `usage`. */
export function parseNumbers(texts: readonly string[]): Result<readonly number[]> {
  const numbers = new Set<number>();
  for (const text of texts.flatMap((one) => one.split(','))) {
    const match = /^(\d{1,10})(?:-(\d{1,10}))?$/.exec(text.trim());
    const from = Number(match?.[1]);
    const to = Number(match?.[2] ?? match?.[1]);
    if (match === null || from < 1 || to < from || to - from >= 10_000 || to > 0xffff_ffff) {
      return refuse(rejection('usage', { reason: `${text} is no piece number, or range such as 20-25.` }));
    }
    for (let number = from; number <= to; number++) numbers.add(number);
  }
  if (numbers.size === 0) return refuse(rejection('usage', { reason: 'No piece number is given.' }));
  return accept([...numbers].sort((a, b) => a - b));
}
