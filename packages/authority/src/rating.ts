/**
 * From one record's statistics to the cells that totals and programmes are made of: each re-rated at the tariff that the
 * declaration names, with its standing.
 *
 * Guarantees: only what is paid in full at a tariff that the authority knows has the standing `paid`; everything else
 * keeps its pieces and postage, with the reason in words, and earns nothing. The cells' pieces and postage add up to
 * what the device's registers moved by, spoiled and incomplete ones included.
 */
import type { Cell, CellKey } from '@countermark/protocol/cell';
import { digestText } from '@countermark/protocol/digest';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { formatMills } from '@countermark/protocol/money';
import { rateCell } from '@countermark/tariff/cell-rating';
import type { ProgrammeCell } from '@countermark/tariff/programme-reckoning';
import { SHIPPED_TARIFFS } from '@countermark/tariff/shipped';
import type { Tariff } from '@countermark/tariff/tariff';
import { nodeVerification } from '@countermark/node-platform/verification';

/**
 * `paid`: in full, it counts. `mispaid`: another postage than pieces times affixed price. `unpriced`: the tariff has no
 * such cell. `unknown-tariff`: the authority does not know the tariff. `incomplete`: the piece records were lost.
 * `spoiled`: debited and declared spoiled. `suspended`: the record is after the last one that stands of a suspended device.
 */
export const STANDINGS = [
  'paid',
  'mispaid',
  'unpriced',
  'unknown-tariff',
  'incomplete',
  'spoiled',
  'suspended',
] as const;
export type Standing = (typeof STANDINGS)[number];

export type RatedCell = ProgrammeCell & {
  readonly device: string;
  /** Digest of the tariff, hex. */
  readonly tariff: string;
  readonly standing: Standing;
  /** Why it does not count; empty where it does. */
  readonly reason: string;
};

/** Tariffs by the hex of their digest. */
export type TariffSource = (digest: string) => Tariff | undefined;

/** The tariffs that come with the product. */
export function shippedTariffs(): TariffSource {
  const byDigest = new Map(
    SHIPPED_TARIFFS.map(({ tariff, bytes }) => [digestText(nodeVerification.sha256(bytes)), tariff]),
  );
  return (digest) => byDigest.get(digest);
}

/** What the circumstances of a record add to its statistics. */
export type Circumstances = {
  readonly authentication: 'signature' | 'mac';
  /** The record is after the last one that stands of a suspended device. */
  readonly suspended: boolean;
};

/** Rates verified statistics, cell by cell; then what is in no cell. Empty for a batch without pieces. */
export function rateStatistics(
  statistics: BatchStatistics,
  { authentication, suspended }: Circumstances,
  tariffs: TariffSource,
): readonly RatedCell[] {
  const { declaration, observed, device, licensee } = statistics;
  const tariffDigest = digestText(declaration.tariff);
  const tariff = tariffs(tariffDigest);
  const of = {
    licensee,
    customer: declaration.customer ?? null,
    device,
    mailingDate: declaration.mailingDate,
    submitter: declaration.submitter,
    preparer: declaration.preparer,
    tariff: tariffDigest,
    currency: observed.currency,
    authentication,
    specimen: observed.specimen,
  };
  const notCounted = (
    key: CellKey,
    pieces: number,
    postageMills: bigint,
    standing: Standing,
    reason: string,
  ): RatedCell => ({
    ...of,
    key,
    pieces,
    postageMills,
    declaredMills: postageMills,
    standing,
    reason,
  });
  const whole: CellKey = {
    product: declaration.product,
    shape: '',
    affixed: '',
    level: '',
    entry: declaration.entry,
    weightStep: 0,
  };

  if (observed.incomplete) {
    if (observed.pieces === 0) return [];
    const postageMills = observed.closed.ascendingMills - observed.opened.ascendingMills;
    return [
      notCounted(whole, observed.pieces, postageMills, 'incomplete', 'The batch was closed without its piece records.'),
    ];
  }
  const rated = observed.cells.map((cell): RatedCell => {
    const refuse = (standing: Standing, reason: string): RatedCell =>
      notCounted(cell.key, cell.pieces, cell.postageMills, standing, reason);
    if (suspended)
      return refuse('suspended', 'The device is suspended, and the record is after the last one that stands.');
    if (tariff === undefined) return refuse('unknown-tariff', `The authority has no tariff ${tariffDigest}.`);
    const { code, exponent } = tariff.currency;
    if (code !== observed.currency.code || exponent !== observed.currency.exponent) {
      return refuse('unpriced', `The tariff ${tariff.id} is in ${code}, the batch in ${observed.currency.code}.`);
    }
    return rateOne(tariff, cell, refuse, of);
  });
  if (observed.spoiledPieces === 0) return rated;
  return [
    ...rated,
    notCounted(whole, observed.spoiledPieces, observed.spoiledPostageMills, 'spoiled', 'Declared spoiled.'),
  ];
}

function rateOne(
  tariff: Tariff,
  cell: Cell,
  refuse: (standing: Standing, reason: string) => RatedCell,
  of: Omit<RatedCell, 'key' | 'pieces' | 'postageMills' | 'declaredMills' | 'standing' | 'reason'>,
): RatedCell {
  const rating = rateCell(tariff, cell);
  switch (rating.verdict) {
    case 'paid':
      return {
        ...of,
        key: cell.key,
        pieces: cell.pieces,
        postageMills: cell.postageMills,
        declaredMills: cell.postageMills - rating.differenceMills,
        standing: 'paid',
        reason: '',
      };
    case 'mispaid': {
      const paid = formatMills(rating.postageMills, tariff.currency);
      const due = formatMills(rating.expectedMills, tariff.currency);
      return refuse('mispaid', `${cell.pieces} pieces carry ${paid}; the tariff ${tariff.id} asks for ${due}.`);
    }
    case 'unpriced':
      return refuse('unpriced', `The tariff ${tariff.id} has no ${rating.dimension} ${rating.value} here.`);
  }
}
