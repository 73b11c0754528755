/**
 * The status of the host: its jobs, device and server, what is pending, what will lock, and what to back up.
 *
 * Guarantees: answers also while device or server cannot be reached, and says why. Changes nothing.
 */
import { errorText } from '@countermark/node-platform/fault';
import type { HostStatusAnswer } from '@countermark/protocol/interfaces/host';
import type { AutomaticRefill } from './automatic-refill.ts';
import type { RatedParts } from './host-parts.ts';
import { piecesFranked, piecesRemaining } from './job-progress.ts';
import type { PendingWork } from './pending-work.ts';
import { statusOf } from './psd-client.ts';
import { deviceReport } from './report.ts';

const DEVICE_PATIENCE_MS = 1_000;

export async function hostStatus(
  parts: RatedParts,
  pending: PendingWork,
  automatic: AutomaticRefill,
): Promise<HostStatusAnswer> {
  const { config, journal, psd, server, tariff } = parts;
  const { code: currency, exponent } = tariff.tariff.currency;
  const [device, reason] = await Promise.all([
    statusOf(psd, DEVICE_PATIENCE_MS).catch((error: unknown) => errorText(error)),
    server.health().then(
      () => null,
      (error: unknown) => errorText(error),
    ),
  ]);
  const known = typeof device === 'string' ? null : device;
  const deadlines = [
    { what: 'warns' as const, atMs: known?.warnsAtMs },
    { what: 'locks' as const, atMs: known?.locksAtMs },
  ].flatMap(({ what, atMs }) => (atMs === undefined ? [] : [{ what, atMs }]));
  return {
    host: {
      licensee: config.licensee,
      transport: config.transport,
      forwarding: config.forwarding,
      holdForMs: config.holdForMs,
      jobs: journal.jobs.all().map(({ job, state }) => ({
        job,
        state,
        pieces: piecesFranked(journal, job),
        remaining: piecesRemaining(journal, job),
      })),
      currency,
      exponent,
      automaticRefill: automatic.report(),
    },
    device: known === null ? null : deviceReport(known),
    server: { url: server.url, reachable: reason === null, ...(reason === null ? {} : { reason }) },
    ...(typeof device === 'string' ? { unreachable: device } : {}),
    pending: pending.of(undefined),
    deadlines,
    backup: [
      { path: config.data, why: 'the host’s store: piece records, archived records, confirmations and grants' },
      { path: config.output, why: 'the jobs’ files: indicia, merge files, records' },
      { path: config.trustBundle, why: 'the public keys on which every check stands' },
    ],
  };
}
