/**
 * Waiting for processes that die and come back, in real time: who asks such a process asks again.
 */
import { Fault } from '@countermark/node-platform/fault';

const ATTEMPTS_MAX = 300;
const PAUSE_MS = 50;

/** Asks again while who is asked is away. Throws what came last after a quarter of a minute. */
export async function persistently<T>(ask: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Fault) || attempt === ATTEMPTS_MAX) throw error;
      await pause();
    }
  }
}

/** While a process is away. */
export async function pause(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}

/** Whether the event comes in time; rejects as the event does. */
export async function within(ms: number, event: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => {
      resolve(false);
    }, ms);
  });
  try {
    return await Promise.race([event.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
