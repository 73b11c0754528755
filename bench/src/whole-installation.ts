/**
 * A whole installation for benchmarks: the five real processes under the supervision that `countermark up` uses, enrolled and
 * funded, with a client of its host.
 */
import { completeSettings, type GivenSettings } from '@countermark/cli/configuration';
import { valueOf } from '@countermark/cli/failure';
import { askSupervisor, type HostClient } from '@countermark/cli/host-client';
import { lockInstallation } from '@countermark/cli/installation';
import { HOST, type WaitAnswer } from '@countermark/protocol/interfaces/host';
import { mills } from '@countermark/protocol/money';
import { peakMemoryMb } from './process-memory.ts';

/** Funds enough for any mailing here. */
const DEPOSIT_MILLS = mills(100_000_000_000n);
/** Longest wait for confirmations and grants after the last piece. */
const SETTLED_MS_MAX = 600_000;

/** What a mailing took. */
export type MailingTimes = {
  readonly rows: number;
  /** From the request until the last piece was franked and every batch closed. */
  readonly frankedMs: number;
  /** From the request until every record was confirmed and the grants had come. */
  readonly settledMs: number;
  /** Milliseconds in each phase that the host told. */
  readonly phasesMs: Readonly<Record<string, number>>;
};

/** An installation in operation. */
export type WholeInstallation = {
  readonly host: HostClient;
  /** Franks a file of that many rows and waits until all is confirmed. Throws where a piece is missing. */
  frank(file: string, rows: number): Promise<MailingTimes>;
  /** VmHWM of each process in megabytes; undefined where this system does not tell. */
  peaksMb(): Promise<ReadonlyMap<string, number> | undefined>;
  stop(): Promise<void>;
};

/** Starts one in an empty folder. */
export async function startWholeInstallation(
  data: string,
  given: GivenSettings,
  note: (line: string) => void,
): Promise<WholeInstallation> {
  const funds = { deposit: DEPOSIT_MILLS, refill: DEPOSIT_MILLS };
  const settings = valueOf(completeSettings({ pages: false, ...funds, ...given }, 'of the benchmark'));
  let lose: (fault: Error) => void = () => undefined;
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  lost.catch(() => undefined);
  const installation = await lockInstallation(data, {
    onNote: note,
    onUnsafe: () => undefined,
    onLost: (fault) => lose(fault),
  });
  const { host } = installation;
  try {
    await installation.start(settings);
    await Promise.race([host.call(HOST.enrol, {}), lost]);
    await Promise.race([host.call(HOST.refill, { amountMills: DEPOSIT_MILLS.toString() }), lost]);
  } catch (error) {
    await installation.stop();
    throw error;
  }
  return {
    host,
    frank: (file, rows) => Promise.race([frank(host, file, rows), lost]),
    peaksMb: async () => {
      const supervisor = await askSupervisor(data);
      const peaks = new Map<string, number>();
      for (const { name, pid } of supervisor?.processes ?? []) {
        const peakMb = pid === null ? undefined : peakMemoryMb(pid);
        if (peakMb === undefined) return undefined;
        peaks.set(name, peakMb);
      }
      return peaks;
    },
    stop: () => installation.stop(),
  };
}

async function frank(host: HostClient, file: string, rows: number): Promise<MailingTimes> {
  const phasesMs: Record<string, number> = {};
  const begunMs = performance.now();
  let sinceMs = begunMs;
  let phase = 'asked';
  const enter = (next: string): void => {
    const nowMs = performance.now();
    phasesMs[phase] = (phasesMs[phase] ?? 0) + nowMs - sinceMs;
    sinceMs = nowMs;
    phase = next;
  };
  const answer = await host.call(HOST.frank, { file }, (event) => {
    if (event.phase !== phase) enter(event.phase);
  });
  enter('waiting');
  const frankedMs = performance.now() - begunMs;
  if (answer.rejection !== undefined) throw new Error(`The mailing was not franked: ${answer.rejection.message}`);
  const waited = await host.call(HOST.wait, { job: answer.job, timeoutMs: SETTLED_MS_MAX });
  enter('');
  const settledMs = performance.now() - begunMs;
  checkSettled(waited, rows);
  return { rows, frankedMs, settledMs, phasesMs };
}

function checkSettled({ outcome, report, pending }: WaitAnswer, rows: number): void {
  const open = report?.batches.filter(({ state, deletedFromPsd }) => state !== 'confirmed' || !deletedFromPsd) ?? [];
  if (outcome !== 'settled' || report?.pieces !== rows || open.length > 0) {
    const why = pending.map(({ what, reason, message }) => `${what}: ${message ?? reason}`).join('; ');
    throw new Error(`The mailing did not settle (${outcome}; ${report?.pieces ?? 0} of ${rows} pieces; ${why})`);
  }
}
