/**
 * The machine under the parties: what the modules in this folder stand in for takes time, randomness, disks and network from
 * here.
 *
 * One world runs at a time in a thread; the module that is linked in place of the platform's has no other way to find it.
 */
import type { Disks } from '../disks.ts';
import type { Files } from '../files.ts';
import type { Network } from '../network.ts';
import { SimulatedProcess } from '../process.ts';
import type { RandomStream } from '../random-stream.ts';
import type { Scheduler } from '../scheduler.ts';

export type Machine = {
  readonly scheduler: Scheduler;
  readonly disks: Disks;
  readonly files: Files;
  readonly network: Network;
  /** Where keys, ids and salts come from. */
  readonly entropy: RandomStream;
  /** Backoff and the like. */
  readonly jitter: RandomStream;
  /** Is told of what a handler threw in its process. */
  onThrown(process: string, operation: string, error: unknown): void;
  /** How long a party's wait takes. */
  waitMs(ms: number): number;
};

let current: Machine | undefined;

/** Puts the machine under everything that runs from now on. */
export function runOn(machine: Machine): void {
  current = machine;
}

/** The machine. @throws Error where no world runs. */
export function machine(): Machine {
  if (current === undefined) throw new Error('no world runs');
  return current;
}

/** The process whose event is happening. @throws Error where it is nobody's process. */
export function runningProcess(): SimulatedProcess {
  const { running } = machine().scheduler;
  if (!(running instanceof SimulatedProcess)) throw new Error(`${running.name} is no process`);
  return running;
}
