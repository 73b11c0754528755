/**
 * The local interface of the host: what the command line may ask of it over its socket.
 *
 * Values are JSON texts inside a CBOR frame, because a person reads them in the end: amounts are decimal integers of mills as
 * texts, times are milliseconds since 1970, bytes are lower-case hex. The TypeScript types say their shape for both sides;
 * the host checks parameters strictly, and answers are its own word. Progress events are JSON texts too.
 * Every operation can be asked again: a job is franked once however often it is asked.
 */
import type { CborValue } from '../cbor.ts';
import { type Rejection, type RejectionCode, rejection } from '../rejection.ts';
import { accept, type Result, refuse } from '../result.ts';
import { field, Misfit, type Of, type Schema, struct } from '../schema.ts';
import { type Operation, operation } from './operation.ts';

/** Longest JSON text of one call, in UTF-16 units; with a frame's bound of 4 MiB. */
const MAX_JSON = 1_000_000;

const jsonText: Schema<string> = {
  cddl: `tstr .size (0..${MAX_JSON * 4})`,
  rules: new Map(),
  parse: (value, path) => {
    if (typeof value !== 'string' || value.length > MAX_JSON)
      throw new Misfit(path, `a JSON text of at most ${MAX_JSON} characters is expected`);
    return value;
  },
  toCbor: (value) => value,
};
const jsonSchema = struct('json', { json: field(1, jsonText) });
type Json = Of<typeof jsonSchema>;

declare const shapes: unique symbol;

/** An operation whose parameters and answer are JSON texts of these shapes. */
export type HostOperation<Parameters, Answer, Event = never> = Operation<Json, Json> & {
  readonly [shapes]?: { readonly parameters: Parameters; readonly answer: Answer; readonly event: Event };
};

function jsonOperation<P, A, E = never>(name: string): HostOperation<P, A, E> {
  return operation(name, jsonSchema, jsonSchema);
}

/** What goes into a call, or comes out of it, on the wire. */
export function jsonToCbor(value: unknown): CborValue {
  return jsonSchema.toCbor({ json: JSON.stringify(value) });
}

/** The value of {@link jsonToCbor}. Rejection: `malformed`. Its shape is for the caller to check. */
export function jsonFromCbor(value: CborValue): Result<unknown> {
  try {
    return accept(JSON.parse(jsonSchema.parse(value, '').json) as unknown);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return refuse(rejection('malformed', { path: 'json', reason }));
  }
}

/** Nothing to say. */
export type Nothing = Readonly<Record<string, never>>;

/** An amount of mills as a decimal integer. */
export type MillsText = string;

/** A rejection as it stands in answers; `message` are its sentences for people, `exit` the exit code that it means. */
export type RejectionReport = {
  readonly code: RejectionCode;
  readonly detail: Rejection['detail'];
  readonly message: string;
  readonly exit: number;
};

/** How a mailing's file is read. */
export type MailingOptions = {
  /** Absolute path. */
  readonly file: string;
  /** Default: `job_` and the first 32 hex digits of the file's SHA-256. */
  readonly job?: string;
  /** Frank the good rows where others are wrong. */
  readonly acceptGood?: boolean;
  /** A name of an encoding (`windows-1252`); default UTF-8. */
  readonly encoding?: string;
  /** ISO day; default the file's column, else today. */
  readonly mailingDate?: string;
  /** Tariff's id; default the newest that is shipped. */
  readonly tariff?: string;
};

export type FrankParameters = MailingOptions & {
  /** Leave the last batch open, so that pieces can be spoiled; `close` closes it. */
  readonly keepOpen?: boolean;
};

/** Progress of a job. `checking`: rows read so far, `total` is 0 until known. */
export type FrankProgress = {
  readonly phase: 'checking' | 'franking' | 'closing' | 'printing';
  readonly done: number;
  readonly total: number;
  /** The batch in hand. */
  readonly batch?: string;
  readonly customer?: string | null;
  /** What is to be known before the first piece is franked, sentences for people; they stand in the answer's `warnings`, too. */
  readonly warnings?: readonly string[];
};

export type BatchStateName = 'open' | 'closed' | 'held' | 'sent' | 'confirmed' | 'quarantined';

export type CellReport = {
  readonly product: string;
  readonly shape: string;
  readonly level: string;
  readonly entry: string;
  readonly weightStep: number;
  readonly pieces: number;
  readonly postageMills: MillsText;
};

export type BatchReport = {
  readonly id: string;
  readonly job: string;
  readonly customer: string | null;
  readonly product: string;
  readonly pieces: number;
  readonly postageMills: MillsText;
  /** Of its record; null before it is sealed. */
  readonly sequence: number | null;
  readonly digest: string | null;
  /** `closed`: franking has ended; its record waits to be sealed or sent. */
  readonly state: BatchStateName;
  /** The PSD has verified the confirmation and deleted the record. */
  readonly deletedFromPsd: boolean;
  readonly cells: readonly CellReport[];
  readonly firstPieceNumber: number | null;
  readonly spoiled: number;
  readonly reprints: number;
  readonly incomplete: boolean;
  readonly mailingDate: string;
  /** Why it is quarantined. */
  readonly reason?: string;
};

export type GrantReport = {
  readonly kind: 'discount' | 'credit';
  readonly digest: string;
  /** Null: the licensee itself. */
  readonly customer: string | null;
  readonly amountMills: MillsText;
  readonly programme: string;
  readonly programmeVersion: number;
  readonly period: string;
  readonly revision: number;
  readonly reasons: readonly string[];
  /** Digests of the records that it counts for the first time. */
  readonly evidence: readonly string[];
  readonly demonstration: boolean;
  readonly grantedAtMs: number;
};

/** A customer's credit that was paid to the licensee as funds. */
export type DrawReport = { readonly customer: string | null; readonly amountMills: MillsText };

export type RegistersReport = {
  readonly ascendingMills: MillsText;
  readonly descendingMills: MillsText;
  readonly controlTotalMills: MillsText;
  readonly pieces: number;
};

/** Something that is not done yet, and why. */
export type PendingReport = {
  readonly what: 'pieces' | 'batch' | 'record' | 'confirmation' | 'grants' | 'draws' | 'funds' | 'enrolment';
  readonly batch?: string;
  readonly sequence?: number;
  readonly count?: number;
  /** `held`, or a code of the catalogue, or of the last fault. */
  readonly reason: string;
  readonly untilMs?: number;
  readonly message?: string;
};

/** The one JSON object of `npm start -- --once --json` and `batch frank --json`. */
export type JobReport = {
  readonly schema: 1;
  readonly currency: string;
  readonly exponent: number;
  readonly job: string;
  /** Franked before this start of the command: wholly or in part. */
  readonly resumed: boolean;
  readonly pieces: number;
  readonly postageMills: MillsText;
  readonly batches: readonly BatchReport[];
  readonly discounts: readonly GrantReport[];
  readonly credits: readonly GrantReport[];
  readonly draws: readonly DrawReport[];
  readonly registers: RegistersReport;
  readonly pending: readonly PendingReport[];
  readonly rejectedRows: number;
  readonly files: {
    /** PDF of the indicia; null where pages are switched off or nothing was franked. */
    readonly indicia: string | null;
    readonly merge: string | null;
    /** Folder: record, confirmation, attestation and grant files, device certificate and trust bundle. */
    readonly records: string;
    /** `FILE.errors.csv`, where rows were rejected. */
    readonly errors?: string;
  };
};

export type JobState = 'franking' | 'stopped' | 'waiting' | 'done';

/** `franked`: by this call; `remaining`: staged and not franked. `rejection`: why it went no further (funds, lock, damage). */
export type FrankAnswer = {
  readonly job: string;
  readonly state: JobState;
  readonly franked: number;
  readonly remaining: number;
  readonly rejection?: RejectionReport;
  /** Minimums that are not met: warnings, sentences for people. */
  readonly warnings: readonly string[];
  readonly report: JobReport;
};

export type DryRunAnswer = {
  readonly job: string;
  readonly currency: string;
  readonly exponent: number;
  readonly pieces: number;
  readonly postageMills: MillsText;
  /** Rows of this file that the job has franked before: not counted above. */
  readonly frankedBefore: number;
  readonly rejectedRows: number;
  readonly errors?: string;
  readonly customers: readonly {
    readonly customer: string | null;
    readonly pieces: number;
    readonly postageMills: MillsText;
    /** By the programmes that the authority publishes; null where they are not reachable. */
    readonly expectedDiscountMills: MillsText | null;
    readonly levels: readonly {
      readonly product: string;
      readonly level: string;
      readonly pieces: number;
      readonly postageMills: MillsText;
      /** The affixed price less the declared level's. */
      readonly differenceMills: MillsText;
      readonly expectedDiscountMills: MillsText | null;
    }[];
  }[];
  readonly fundsBeforeMills: MillsText;
  /** Negative where the funds do not suffice. */
  readonly fundsAfterMills: MillsText;
  readonly warnings: readonly string[];
};

export type BatchFilter = { readonly job?: string };
/** `piece`: a piece by number, by key (`piece_ref`) or by row of its job's file. */
export type ShowParameters = {
  readonly batch?: string;
  readonly pieceNumber?: number;
  readonly pieceRef?: string;
  readonly row?: number;
  readonly job?: string;
};
export type PieceReport = {
  readonly batch: string;
  readonly pieceNumber: number;
  readonly row: number;
  readonly postageMills: MillsText;
  readonly level: string;
  readonly weightStep: number;
  readonly reference: string;
  readonly indicium: string;
  readonly salt: string;
  readonly record: string;
};
export type ShowAnswer = { readonly batch: BatchReport; readonly piece?: PieceReport };

/** `numbers`: single numbers or ranges, `12`, `20-25`. */
export type SpoilParameters = { readonly numbers: readonly string[] };
/** Default: the open batch. */
export type CloseParameters = { readonly batch?: string; readonly incomplete?: boolean };
/** Of a whole batch, or of these numbers. */
export type ReprintParameters = { readonly batch?: string; readonly numbers?: readonly string[] };
export type ReprintAnswer = { readonly file: string; readonly pieces: number };

export type RecordReport = {
  readonly sequence: number;
  /** A key rotation and a final statement belong to no batch and no job. */
  readonly type: 'batch-statistics' | 'key-rotation' | 'final-statement';
  readonly digest: string;
  readonly batch: string | null;
  readonly job: string | null;
  readonly state: 'waiting' | 'held' | 'sent' | 'confirmed' | 'quarantined';
  readonly sealedAtMs: number;
  readonly holdUntilMs: number | null;
  readonly nextAttemptMs: number | null;
  readonly attempts: number;
  readonly reason: string | null;
};

export type SendAnswer = {
  readonly sent: number;
  readonly confirmed: number;
  /** Held, quarantined, or not sent because of a fault. */
  readonly waiting: readonly RecordReport[];
  readonly reason?: string;
};
export type DirectoryParameters = { readonly directory: string };
export type ExportAnswer = { readonly directory: string; readonly files: readonly string[]; readonly held: number };
export type ImportAnswer = {
  readonly directory: string;
  readonly read: number;
  readonly results: readonly {
    readonly file: string;
    readonly outcome: string;
    readonly message?: string;
    readonly files?: readonly string[];
  }[];
};

export type FundsAnswer = RegistersReport & {
  readonly receivedMills: MillsText;
  readonly returnedMills: MillsText;
  readonly lastGrant: number;
  readonly pendingRequest: number | null;
  readonly currency: string;
  readonly exponent: number;
};
/** A decimal amount in currency units (`250.00`), or in mills. Exactly one. */
export type RefillParameters = { readonly amount?: string; readonly amountMills?: MillsText };
export type RefillAnswer = {
  readonly grantedMills: MillsText;
  readonly draws: readonly DrawReport[];
  readonly refusal: string | null;
  readonly funds: FundsAnswer;
};

/** What the host asks for by itself while it franks; `refused`: why it does so no more, until a refill or the next mailing. */
export type AutomaticRefillReport = {
  /** It asks when the device has less than this. */
  readonly belowMills: MillsText;
  /** It asks for what is missing to this. */
  readonly toMills: MillsText;
  readonly refused: { readonly reason: string; readonly atMs: number } | null;
};

/** One answer of the server to a request for funds. It is signed; what it says was checked by the device that took it. */
export type FundsReceipt = {
  readonly number: number;
  readonly grantedAtMs: number;
  /** All of it: from the deposit, and the draws. */
  readonly amountMills: MillsText;
  readonly depositMills: MillsText;
  readonly draws: readonly DrawReport[];
  readonly refusal: string | null;
  /** The job during which it was asked for. */
  readonly job: string | null;
  /** The device has taken it; false: it was cut off, and is asked for again under the same number. */
  readonly taken: boolean;
};
/** `after`: only receipts of higher numbers; the answer has a bounded number of them. */
export type FundsReportParameters = { readonly after?: number };
export type FundsReportAnswer = {
  readonly currency: string;
  readonly exponent: number;
  /** Null where the PSD does not answer; then `unreachable` says why. */
  readonly funds: FundsAnswer | null;
  readonly unreachable?: string;
  /** Null: the host asks for nothing by itself. */
  readonly automatic: AutomaticRefillReport | null;
  /** By number. */
  readonly receipts: readonly FundsReceipt[];
  /** Where there are more: ask for those after this number. */
  readonly next: number | null;
};

export type GrantParameters = { readonly digest: string };

export type DeviceReport = {
  readonly device: string;
  readonly state: string;
  readonly licensee: string | null;
  readonly epoch: number;
  /** Of keys that were made for a rotation and are not in use yet. */
  readonly pendingEpoch: number | null;
  readonly authentication: 'signature' | 'mac';
  readonly memory: 'psd' | 'host';
  readonly certified: boolean;
  readonly registers: RegistersReport;
  readonly sequence: number;
  readonly head: string;
  readonly openBatch: string | null;
  readonly unconfirmedRecords: number;
  readonly unconfirmedPostageMills: MillsText;
  readonly recordCapacity: number;
  readonly policyVersion: number | null;
  readonly customers: readonly string[];
  readonly lock: string | null;
  /** What lifts the lock, in words. */
  readonly lockLifts: string | null;
  readonly warning: string | null;
  /** Of its policy: days after which what is not confirmed warns and locks; null before it has a policy. */
  readonly warnAfterDays: number | null;
  readonly lockAfterDays: number | null;
  /** Null where its policy wants no inspection. */
  readonly inspectionWarnsAtMs: number | null;
  readonly inspectionLocksAtMs: number | null;
  /** Null where its policy allows all products, or every scheme. */
  readonly products: readonly string[] | null;
  readonly scheme: number | null;
  readonly signedTimeMs: number | null;
  readonly alarms: number;
  readonly warnsAtMs: number | null;
  readonly locksAtMs: number | null;
  readonly software: string;
  /** What it measured of its own code, in hex. */
  readonly measurement: string;
  /** Its policy closes it; then the sequence of its final statement, and whether every key of its is erased. */
  readonly closing: boolean;
  readonly finalSequence: number | null;
  readonly zeroised: boolean;
};

/** For `countermark status`. */
export type HostStatusAnswer = {
  readonly host: {
    readonly licensee: string;
    readonly transport: 'session' | 'sessionless';
    readonly forwarding: 'at-once' | 'hold';
    readonly holdForMs: number;
    readonly jobs: readonly {
      readonly job: string;
      readonly state: JobState;
      readonly pieces: number;
      readonly remaining: number;
    }[];
    readonly currency: string;
    readonly exponent: number;
    /** Null: it asks for no funds by itself. */
    readonly automaticRefill: AutomaticRefillReport | null;
  };
  /** Null where the PSD does not answer; then `unreachable` says why. */
  readonly device: DeviceReport | null;
  readonly server: { readonly url: string; readonly reachable: boolean; readonly reason?: string };
  readonly unreachable?: string;
  readonly pending: readonly PendingReport[];
  /** By signed time. */
  readonly deadlines: readonly { readonly what: 'warns' | 'locks'; readonly atMs: number }[];
  /** Absolute paths, each with why it must be in a backup. */
  readonly backup: readonly { readonly path: string; readonly why: string }[];
};

/** `timeoutMs` default 300,000. Without a job: everything that this host has. */
export type WaitParameters = { readonly job?: string; readonly timeoutMs?: number };
/** `hold`: what waits is held; `timeout`; `blocked`: quarantined, out of funds, or stopped: waiting would not help. */
export type WaitAnswer = {
  readonly outcome: 'settled' | 'hold' | 'timeout' | 'blocked';
  readonly report: JobReport | null;
  readonly pending: readonly PendingReport[];
};

/** PEM. The certificate of the device's signature key, for programs that know X.509, and that of who issued it. */
export type CertificateAnswer = {
  readonly device: string;
  readonly certificate: string;
  readonly authority: string;
};

/** `to`: the key epoch that the device shall come to, the next one or the one that it is in. Default: the next one. */
export type RotateParameters = { readonly to?: number };
/** `rotated`: by this call; else the device was in the epoch already. `resumed`: an interrupted rotation came to its end. */
export type RotateAnswer = {
  readonly rotated: boolean;
  readonly resumed: boolean;
  readonly epoch: number;
  /** Of the rotation; null where this host does not have it (any more). */
  readonly record: RecordReport | null;
  readonly device: DeviceReport;
};

/** `code`: that an operator of the server issued; a new device needs it. */
export type EnrolParameters = { readonly customers?: readonly string[]; readonly code?: string };
export type TemplateParameters = { readonly customers?: boolean };

export const HOST = {
  /** Checks and franks a mailing. Rejections: those of the file (`file-rows`...), `job-conflict`, `batch-open`. */
  frank: jsonOperation<FrankParameters, FrankAnswer, FrankProgress>('frank'),
  /** Stops franking after the chunk in hand. Answers when it has. */
  stop: jsonOperation<Nothing, { readonly jobs: readonly string[] }>('stop'),
  dryRun: jsonOperation<MailingOptions, DryRunAnswer, FrankProgress>('dry-run'),
  job: jsonOperation<{ readonly job: string }, JobReport>('job'),
  wait: jsonOperation<WaitParameters, WaitAnswer>('wait'),
  batches: jsonOperation<BatchFilter, { readonly batches: readonly BatchReport[] }>('batches'),
  batch: jsonOperation<ShowParameters, ShowAnswer>('batch'),
  spoil: jsonOperation<SpoilParameters, BatchReport>('spoil'),
  close: jsonOperation<CloseParameters, BatchReport>('close'),
  reprint: jsonOperation<ReprintParameters, ReprintAnswer>('reprint'),
  statistics: jsonOperation<Nothing, { readonly records: readonly RecordReport[] }>('statistics'),
  /** Sends what is due now; does not bypass a hold. */
  send: jsonOperation<Nothing, SendAnswer>('send'),
  exportRecords: jsonOperation<DirectoryParameters, ExportAnswer>('export-records'),
  /** Brings record files of any device to the server, and writes confirmations and attestations beside them. */
  importRecords: jsonOperation<DirectoryParameters, ImportAnswer>('import-records'),
  /** Gives confirmation files to this host's PSD. */
  importConfirmations: jsonOperation<DirectoryParameters, ImportAnswer>('import-confirmations'),
  funds: jsonOperation<Nothing, FundsAnswer>('funds'),
  refill: jsonOperation<RefillParameters, RefillAnswer>('refill'),
  /** Registers and refill receipts; answers also where the PSD is away. */
  fundsReport: jsonOperation<FundsReportParameters, FundsReportAnswer>('funds-report'),
  grants: jsonOperation<Nothing, { readonly grants: readonly GrantReport[] }>('grants'),
  grant: jsonOperation<GrantParameters, GrantReport>('grant'),
  device: jsonOperation<Nothing, DeviceReport>('device'),
  status: jsonOperation<Nothing, HostStatusAnswer>('status'),
  /** Brings the PSD's request to the server and installs the answer; registers customers. Idempotent. */
  enrol: jsonOperation<EnrolParameters, DeviceReport>('enrol'),
  certificate: jsonOperation<Nothing, CertificateAnswer>('certificate'),
  /** Takes the device to the keys of its next epoch. Asked again after a crash it goes on where it stood. */
  rotate: jsonOperation<RotateParameters, RotateAnswer>('rotate'),
  template: jsonOperation<TemplateParameters, { readonly csv: string }>('template'),
} as const;
