/**
 * Whether the device is older than what this host has seen of it: its store was put back to an earlier copy.
 *
 * Guarantees that a device which stands behind the journal, in its chain or in its piece numbers, is told of before it franks: it
 * would give numbers a second time. A copy that has gone on past the journal is not seen here; the server sees its fork.
 */
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import type { Journal } from './journal.ts';

/** The rejection `device-older`, or null. */
export function deviceOlder(journal: Journal, { device, sequence, registers }: DeviceStatus): Rejection | null {
  const { sealed } = journal.records.lastSequences();
  const lastPiece = journal.chunks.lastPieceNumber();
  if (sequence >= sealed && registers.pieces >= lastPiece) return null;
  const behind =
    sequence < sealed
      ? `it stands at record ${sequence}, its archive has record ${sealed}`
      : `it stands at piece ${registers.pieces}, its journal has piece ${lastPiece}`;
  return rejection('device-older', { device, reason: behind });
}
