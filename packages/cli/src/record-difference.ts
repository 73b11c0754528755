/**
 * Two records of one device that cannot both be true, beside each other: what differs, and what that means, in words.
 *
 * Pure, for verified records only. Says what the records say; which of two histories was printed, they cannot say.
 */
import { digestText, sameBytes } from '@countermark/protocol/digest';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { type Currency, formatMills } from '@countermark/protocol/money';
import type { VerifiedRecord } from '@countermark/verify/record';
import { countText, timeText } from './summary.ts';

/** A property of both records; `differs` where it is not the same. */
export type Difference = {
  readonly what: string;
  readonly accepted: string;
  readonly refused: string;
  readonly differs: boolean;
};

/** The properties of both, in the order of the chain, the batch, and the money. `accepted` null: there is none. */
export function differences(accepted: VerifiedRecord | null, refused: VerifiedRecord): readonly Difference[] {
  const one = accepted === null ? new Map<string, string>() : properties(accepted);
  const other = properties(refused);
  return [...new Set([...one.keys(), ...other.keys()])].map((what) => {
    const [left, right] = [one.get(what) ?? '', other.get(what) ?? ''];
    return { what, accepted: left, refused: right, differs: accepted !== null && left !== right };
  });
}

/** What the two records mean together, a sentence each. */
export function meaning(accepted: VerifiedRecord | null, refused: VerifiedRecord): readonly string[] {
  const { sequence, previous, device } = refused.verified.message;
  const words: string[] = [];
  if (accepted === null) {
    words.push(`No record ${sequence} of ${device} was accepted, nor one before it.`);
  } else if (accepted.verified.message.sequence === sequence) {
    words.push(
      sameBytes(accepted.verified.message.previous, previous)
        ? `Both follow the same record: two histories of ${device} begin at record ${sequence}. Its store was copied, or rolled back to before it.`
        : `They follow different records: the histories of ${device} parted before record ${sequence}.`,
    );
  } else if (sameBytes(accepted.verified.digest, previous)) {
    words.push(`It follows the accepted record ${accepted.verified.message.sequence}, and contradicts it or itself.`);
  } else {
    words.push(
      `It does not follow the accepted record ${accepted.verified.message.sequence}: it is of another history.`,
    );
  }
  if (refused.type !== 'batch-statistics') return words;
  const { observed } = refused.verified.message;
  if (accepted?.type === 'batch-statistics') {
    const [first, last] = common(accepted.verified.message, refused.verified.message);
    if (first <= last) {
      words.push(
        `The piece numbers ${countText(first)} to ${countText(last)} stand on mail of both, if both were printed: scans of them tell which.`,
      );
    }
  }
  if (observed.pieces > 0) {
    const postage = formatMills(postageMills(refused.verified.message), observed.currency);
    words.push(
      `The record that was not accepted franked ${countText(observed.pieces)} pieces for ${postage}, which no ledger has booked.`,
    );
  }
  return words;
}

/** The piece numbers that both records used; first after last where there are none. */
function common(one: BatchStatistics, other: BatchStatistics): [first: number, last: number] {
  const first = Math.max(one.observed.firstPieceNumber, other.observed.firstPieceNumber);
  const last = Math.min(
    one.observed.firstPieceNumber + one.observed.pieces,
    other.observed.firstPieceNumber + other.observed.pieces,
  );
  return [first, last - 1];
}

function postageMills({ observed }: BatchStatistics): bigint {
  return observed.closed.ascendingMills - observed.opened.ascendingMills;
}

function properties(record: VerifiedRecord): Map<string, string> {
  const { message, digest } = record.verified;
  const chain: [string, string][] = [
    ['Sequence', String(message.sequence)],
    ['Digest', digestText(digest)],
    ['Record before it', digestText(message.previous)],
    ['Kind', record.type],
  ];
  if (record.type === 'key-rotation') {
    const { newEpoch, newCertificate } = record.verified.message;
    return new Map([...chain, ['New key epoch', String(newEpoch)], ['New certificate', digestText(newCertificate)]]);
  }
  if (record.type === 'final-statement') {
    const { registers, returnedMills, currency: of } = record.verified.message;
    return new Map([
      ...chain,
      ['Ascending at the end', formatMills(registers.ascendingMills, of)],
      ['Funds given back', formatMills(returnedMills, of)],
    ]);
  }
  const { declaration, observed } = record.verified.message;
  const amount = (mills: bigint): string => formatMills(mills, currency);
  const currency: Currency = observed.currency;
  return new Map([
    ...chain,
    ['Key epoch', String(observed.epoch)],
    ['Batch', declaration.batch],
    ['Job', declaration.job],
    ['Customer', declaration.customer ?? '(own mail)'],
    ['Product', declaration.product],
    ['Mailing date', declaration.mailingDate],
    ['Pieces', countText(observed.pieces)],
    ['First piece number', countText(observed.firstPieceNumber)],
    ['Root of the pieces', digestText(observed.root)],
    ['Postage', amount(postageMills(record.verified.message))],
    ['Ascending at opening', amount(observed.opened.ascendingMills)],
    ['Ascending at closing', amount(observed.closed.ascendingMills)],
    ['Descending at opening', amount(observed.opened.descendingMills)],
    ['Descending at closing', amount(observed.closed.descendingMills)],
    ['Funds received', amount(observed.funds.receivedMills)],
    ['Last funds grant', String(observed.funds.lastGrant)],
    ['Closed incomplete', observed.incomplete ? 'yes' : 'no'],
    ['Opened after', observed.openedAfterMs === undefined ? '' : timeText(observed.openedAfterMs)],
  ]);
}
