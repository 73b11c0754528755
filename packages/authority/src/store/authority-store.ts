/**
 * What the authority keeps, as one interface: certificates, the log of records, what follows it, and grants.
 *
 * Guarantees asked of every implementation (tests/contract/authority-store.test.ts): each operation is atomic and durable
 * when its promise resolves; intake cursors and grant cursors rise by one without gap in the order of commits (but for
 * `continueGrants`); two workers at once lead to the same as one after the other.
 */
import type { Digest } from '@countermark/protocol/digest';
import type { CustomerId, DeviceId, LicenseeId, ProgrammeId } from '@countermark/protocol/id';
import type { HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import type { Mills } from '@countermark/protocol/money';
import type { Rejection } from '@countermark/protocol/rejection';
import type { Programme } from '@countermark/tariff/programme';
import type { Beneficiary } from '@countermark/tariff/programme-reckoning';
import type { ChainHead } from '@countermark/verify/chain';
import type { VerifiedRecord } from '@countermark/verify/record';
import type { RatedCell, Standing } from '../rating.ts';
import type { TotalsQuery, TotalsRow } from '../totals.ts';

/** What the authority knows of a device key from its verified certificate. */
export type CertifiedKey = {
  readonly device: DeviceId;
  readonly epoch: number;
  readonly licensee: LicenseeId;
  readonly authentication: 'signature' | 'mac';
  readonly publicKey: Uint8Array;
  readonly digest: Digest;
  readonly bytes: Uint8Array;
};

export type DeviceState = {
  readonly device: DeviceId;
  readonly head: ChainHead;
  /** Why it is suspended, or empty. */
  readonly suspended: string;
  /** Of a suspended device: the last record that stands. */
  readonly suspendedAfter: number;
  /** Time of the last suspension message that was heeded, 0 before the first. */
  readonly suspensionMs: number;
};

export type StoredRecord = {
  readonly device: DeviceId;
  readonly sequence: number;
  readonly digest: Digest;
  readonly type: VerifiedRecord['type'];
  readonly licensee: LicenseeId;
  readonly customer: CustomerId | null;
  /** Empty for what is no batch. */
  readonly mailingDate: string;
  /** It is after the last one that stands of a suspended device. */
  readonly suspended: boolean;
  readonly bytes: Uint8Array;
  readonly attestation: Uint8Array;
  readonly receivedMs: number;
};

/** A record that was authentic and yet refused: kept as evidence. */
export type QuarantinedRecord = Pick<
  StoredRecord,
  'device' | 'sequence' | 'digest' | 'bytes' | 'attestation' | 'receivedMs'
> & { readonly rejection: Rejection };

export type IntakeView = {
  /** The device's state; that of a new one before its first record. */
  readonly device: (device: DeviceId) => DeviceState;
  /** The digest that was accepted at one of the positions asked for. */
  readonly acceptedAt: (device: DeviceId, sequence: number) => Digest | null;
};

export type IntakeChanges = {
  /** Appended to the log in this order. */
  readonly records: readonly StoredRecord[];
  readonly quarantined: readonly QuarantinedRecord[];
  readonly devices: readonly DeviceState[];
};

export type Position = { readonly device: DeviceId; readonly sequence: number };

/** A grant that was signed and verified, to be stored if nobody else did. */
export type SignedGrant = Beneficiary & {
  readonly programme: ProgrammeId;
  readonly version: number;
  readonly period: string;
  readonly revision: number;
  readonly amountMills: Mills;
  readonly entitlementMills: Mills;
  readonly digest: Digest;
  readonly bytes: Uint8Array;
};

export type GrantItem = { readonly cursor: number; readonly digest: Digest; readonly grant: Uint8Array };

/** The last revision of a grant. `entitlementMills` is all that was granted so far. */
export type LastGrant = {
  readonly revision: number;
  readonly entitlementMills: Mills;
  readonly through: number;
  readonly digest: Digest;
};

export type GrantIdentity = Beneficiary & {
  readonly programme: ProgrammeId;
  readonly version: number;
  readonly period: string;
};

export type StoredTotal = RatedCell & { readonly id: bigint };

export type ProgrammeState = {
  readonly id: ProgrammeId;
  readonly version: number;
  readonly canonical: string;
  readonly evaluated: number;
};

/** Where the followers of the log stand. */
export type Positions = {
  readonly intake: number;
  readonly rolled: number;
  readonly grants: number;
  /** The last record that a start found good. */
  readonly checked: number;
};

/** A cell of a record as it was counted into its total. */
export type CountedCell = {
  readonly pieces: number;
  readonly postageMills: bigint;
  readonly standing: Standing;
  readonly licensee: LicenseeId;
  readonly customer: CustomerId | null;
  readonly level: string;
};

/** A total that is not the sum of its cells. */
export type WrongTotal = {
  readonly key: string;
  readonly pieces: bigint;
  readonly postageMills: bigint;
  readonly cellPieces: bigint;
  readonly cellPostageMills: bigint;
};

export type AuthorityStore = {
  /** Adds keys; one that is there already stays as it is. */
  addCertificates(keys: readonly CertifiedKey[]): Promise<void>;
  certificates(keys: readonly { readonly device: string; readonly epoch: number }[]): Promise<readonly CertifiedKey[]>;

  /**
   * One delivery's change of the log: `decide` sees the devices and accepted digests named, and what it returns is
   * written with them unchanged in between. It is pure: it may run several times. Returns its decision and the point of
   * the log's history after it; no decision, and nothing changed, where the history has not come by `since`.
   */
  intake<Decision extends IntakeChanges>(
    devices: readonly DeviceId[],
    positions: readonly Position[],
    decide: (view: IntakeView) => Decision,
    since?: HistoryPoint,
  ): Promise<{ readonly decision: Decision | null; readonly point: HistoryPoint }>;
  /** Whether the log's history has come by this point. */
  cameBy(point: HistoryPoint): Promise<boolean>;
  /** The point of the log's history at a cursor that it has come by. */
  pointAt(cursor: number): Promise<HistoryPoint>;
  /** Whether the grant with this cursor is the one with this digest. */
  gave(cursor: number, digest: Digest): Promise<boolean>;
  positions(): Promise<Positions>;

  /**
   * Takes the totals on by at most `limit` records, if they still stand at `rolled`: `rate` gives each record's cells.
   * Returns where they stand then.
   */
  roll(rolled: number, limit: number, rate: (record: StoredRecord) => readonly RatedCell[]): Promise<number>;
  /** Distinct licensees, customers and mailing dates of the records after one cursor up to another. */
  touched(after: number, through: number): Promise<readonly (Beneficiary & { readonly mailingDate: string })[]>;
  /** Totals of a licensee's mail in a stretch of mailing dates; of one customer (null: own mail) where it is given. */
  totalsOf(
    licensee: LicenseeId,
    customer: CustomerId | null | undefined,
    from: string,
    to: string,
  ): Promise<readonly StoredTotal[]>;
  /** Sums of the totals that match, by dimensions, ordered by them; at most `limit` rows. With where totals stand. */
  totals(query: TotalsQuery, limit: number): Promise<{ readonly rolled: number; readonly rows: readonly TotalsRow[] }>;
  /** Digests of the records with a cell in one of the totals, after a cursor up to another, in order. */
  evidence(totals: readonly bigint[], after: number, through: number): Promise<readonly Digest[]>;

  programmes(): Promise<readonly ProgrammeState[]>;
  /** Adds programmes that are new, evaluated through 0. */
  addProgrammes(programmes: readonly Programme[]): Promise<void>;
  /** Whether a version of the programme before this one granted for mail of that day or later. */
  grantedFrom(programme: ProgrammeId, beforeVersion: number, day: string): Promise<boolean>;
  lastGrant(identity: GrantIdentity): Promise<LastGrant | null>;
  /**
   * Stores the grants of one evaluation with the programme's new position, all or nothing, if the programme still stands
   * at `from`. False: another worker was there first, and nothing was stored.
   */
  evaluated(
    programme: { readonly id: ProgrammeId; readonly version: number },
    from: number,
    through: number,
    grants: readonly SignedGrant[],
  ): Promise<boolean>;
  /**
   * Has the next grant come after this cursor, where fewer were issued: grants that a restored store has lost are booked elsewhere, and
   * their cursors are given to no other.
   */
  continueGrants(after: number): Promise<void>;
  /** Where cursors of grants were left out so: the last before, and the one from which they go on. */
  grantGaps(): Promise<ReadonlyMap<number, number>>;
  /** Grants after a cursor in its order, at most `limit`. */
  grants(after: number, limit: number): Promise<readonly GrantItem[]>;

  /** Records after a cursor in its order, at most `limit`. */
  records(after: number, limit: number): Promise<readonly (StoredRecord & { readonly cursor: number })[]>;
  recordAt(device: DeviceId, sequence: number): Promise<StoredRecord | null>;
  quarantined(): Promise<readonly QuarantinedRecord[]>;
  device(device: DeviceId): Promise<DeviceState | null>;

  /** Notes that a start found everything up to this cursor good. */
  markChecked(cursor: number): Promise<void>;
  /** What the database itself finds wrong with its pages; nothing where it cannot say. */
  pageProblems(): Promise<readonly string[]>;
  /** The cells of the records between two cursors, both included, by cursor, in order. */
  cells(from: number, to: number): Promise<ReadonlyMap<number, readonly CountedCell[]>>;
  /** Totals that are not the sums of their cells, at most `limit`. */
  wrongTotals(limit: number): Promise<readonly WrongTotal[]>;
  /** The columns beside a grant's bytes. */
  grantColumns(cursor: number): Promise<(Omit<SignedGrant, 'bytes'> & { readonly through: number }) | null>;
  /** Those of the digests that are of no record up to the cursor. */
  missingEvidence(digests: readonly Digest[], through: number): Promise<readonly Digest[]>;
  close(): Promise<void>;
};
