/**
 * How far the examination of stores is, on stderr: a bar on a terminal, a line for each party elsewhere.
 */
import type { SingleBar } from 'cli-progress';
import type { CheckEvent } from './party-checks.ts';
import { countText } from './summary.ts';
import { note } from './terminal.ts';

const BAR_CHARACTERS = 40;

/** The progress of one check. */
export class CheckProgress {
  #bar: SingleBar | undefined;
  readonly #told = new Set<string>();
  #ended = false;

  /** Shows an event. */
  show(event: CheckEvent): void {
    if (this.#ended) return;
    if (!process.stderr.isTTY) {
      if (!this.#told.has(event.party)) note(`Checking ${event.party} ...`);
      this.#told.add(event.party);
      return;
    }
    if (this.#bar === undefined) void this.#open(event);
    else {
      this.#bar.setTotal(Math.max(event.total, event.done, 1));
      this.#bar.update(event.done, { event });
    }
  }

  /** Ends the bar, so that other lines can follow. */
  end(): void {
    this.#ended = true;
    this.#bar?.stop();
    this.#bar = undefined;
  }

  async #open(event: CheckEvent): Promise<void> {
    const { default: progress } = await import('cli-progress');
    if (this.#bar !== undefined || this.#ended) return;
    this.#bar = new progress.SingleBar({
      stream: process.stderr,
      format: (_, { progress: share }, { event: shown }: { readonly event: CheckEvent }) => barText(shown, share),
      hideCursor: true,
    });
    this.#bar.start(Math.max(event.total, 1), event.done, { event });
  }
}

function barText({ party, what, done, total }: CheckEvent, share: number): string {
  if (total === 0) return `Checking ${party}: ${countText(done)} ${what}`;
  const filled = Math.round(Math.min(share, 1) * BAR_CHARACTERS);
  const bar = '#'.repeat(filled) + '.'.repeat(BAR_CHARACTERS - filled);
  return `Checking ${party} [${bar}] ${countText(done)} of ${countText(total)} ${what}`;
}
