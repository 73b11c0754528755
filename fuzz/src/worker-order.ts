/**
 * What the fuzzing thread is told, what it tells, and the memory that it shares with whoever watches it.
 */
import type { Figures, Finding } from './loop.ts';

export type WorkerOrder = {
  readonly target: string;
  readonly seed: string;
  readonly inputs: number;
  readonly saved: readonly Uint8Array[];
  /** See {@link SHARED}. */
  readonly shared: SharedArrayBuffer;
};

export type WorkerMessage =
  | { readonly kind: 'finding'; readonly finding: Finding }
  | { readonly kind: 'done'; readonly figures: Figures }
  /** The target itself does not work: it could not be prepared. */
  | { readonly kind: 'broken'; readonly reason: string };

/** Layout of the shared memory, in 32-bit words: number of the input in hand, its length; then its bytes. */
export const SHARED = { number: 0, length: 1, headerBytes: 8, bytesMax: 4 * 1024 * 1024 } as const;
