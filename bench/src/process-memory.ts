/**
 * The memory of other processes, as Linux counts it.
 */
import { readFileSync } from 'node:fs';

/** VmHWM, the most that was ever resident, in megabytes (10^6 bytes); undefined where the system does not tell. */
export function peakMemoryMb(pid: number): number | undefined {
  if (process.platform !== 'linux') return undefined;
  const kib = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return kib === undefined ? undefined : (Number(kib) * 1_024) / 1_000_000;
}
