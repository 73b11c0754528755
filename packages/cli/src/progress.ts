/**
 * The progress of a job on stderr: a bar on a terminal, a line for each phase elsewhere; warnings as they come, each once.
 */
import type { SingleBar } from 'cli-progress';
import type { FrankProgress } from '@countermark/protocol/interfaces/host';
import { countText, customerText } from './summary.ts';
import { note, noteStyle } from './terminal.ts';

const PHASES = {
  checking: 'Checking the file',
  franking: 'Franking',
  closing: 'Closing the batch',
  printing: 'Making pages and merge file',
} as const;

/** One job's progress. */
export class Progress {
  #bar: SingleBar | undefined;
  readonly #told = new Set<FrankProgress['phase']>();
  readonly #warned = new Set<string>();
  #ended = false;

  /** Shows an event. */
  show(event: FrankProgress): void {
    if (this.#ended) return;
    if (event.warnings !== undefined) {
      this.#bar?.stop();
      this.#bar = undefined;
      this.warn(event.warnings);
      return;
    }
    const whole = event.total === 0 ? '' : `: ${countText(event.total)} pieces`;
    if (!process.stderr.isTTY) {
      if (event.phase !== 'closing' && !this.#told.has(event.phase)) note(`${PHASES[event.phase]}${whole} ...`);
      this.#told.add(event.phase);
      return;
    }
    const values = { event };
    if (this.#bar === undefined) void this.#open(event, values);
    else {
      this.#bar.setTotal(Math.max(event.total, event.done, 1));
      this.#bar.update(event.done, values);
    }
  }

  /** Prints the warnings that were not printed yet. */
  warn(warnings: readonly string[]): void {
    for (const warning of warnings) {
      if (this.#warned.has(warning)) continue;
      this.#warned.add(warning);
      note(noteStyle.yellow(`Warning: ${warning}`));
    }
  }

  /** Ends the bar, so that other lines can follow. */
  end(): void {
    this.#ended = true;
    this.#bar?.stop();
    this.#bar = undefined;
  }

  async #open(event: FrankProgress, values: object): Promise<void> {
    const { default: progress } = await import('cli-progress');
    if (this.#bar !== undefined || this.#ended) return;
    this.#bar = new progress.SingleBar({
      stream: process.stderr,
      format: (_, { progress: done }, { event: shown }: { readonly event: FrankProgress }) => barText(shown, done),
      hideCursor: true,
    });
    this.#bar.start(Math.max(event.total, 1), event.done, values);
  }
}

const BAR_CHARACTERS = 40;

/** One line; while the rows are still being counted there is no bar to fill. */
function barText({ phase, done, total, customer }: FrankProgress, share: number): string {
  if (total === 0) return `${PHASES[phase]}: ${countText(done)} ${phase === 'checking' ? 'rows' : 'pieces'}`;
  const filled = Math.round(Math.min(share, 1) * BAR_CHARACTERS);
  const bar = '#'.repeat(filled) + '.'.repeat(BAR_CHARACTERS - filled);
  const whose = customer === undefined ? '' : ` ${customerText(customer)}`;
  return `${PHASES[phase]} [${bar}] ${countText(done)} of ${countText(total)}${whose}`;
}
