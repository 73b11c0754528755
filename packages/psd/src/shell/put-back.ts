/**
 * Whether a store is older than what the token has seen of its device: said at the start, before anything is asked of it.
 *
 * Guarantees that an honest device is never refused, wherever it was killed: its store is never behind its mark (`device-mark.ts`).
 * It tells an owner who puts back the disk and not the token, not one who has the PIN and writes the mark (SECURITY.md).
 */
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { isPutBack } from './device-mark.ts';
import type { KeyHolder } from './key-holder.ts';
import type { Loaded } from './store.ts';

/** Rejections: `store-put-back`, with what the token has seen; `hsm-refused` where it has no mark of the device. */
export function putBackProblem({ identity, mark, state }: Loaded, holder: KeyHolder, store: string): Rejection | null {
  if (holder.marks === null) return null;
  const { device } = identity;
  const token = holder.token ?? '';
  const seen = holder.marks.last(device);
  if (seen === null) return rejection('hsm-refused', { token, reason: `the mark of ${device} is not on it` });
  if (mark === null) return rejection('store-damaged', { store, reason: 'its mark is missing' });
  if (!isPutBack(mark, seen)) return null;
  const { registers, sequence } = state;
  return rejection('store-put-back', {
    store,
    device,
    token,
    storedCommits: mark.commits,
    storedSequence: sequence,
    storedPieces: registers.pieces,
    storedMills: String(registers.ascendingMills),
    seenCommits: seen.commits,
    seenSequence: seen.sequence,
    seenPieces: seen.pieces,
    seenMills: String(seen.ascendingMills),
  });
}
