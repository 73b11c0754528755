/**
 * Evidence in files: records, confirmations, attestations, grants and every other message, verified offline with public keys alone.
 *
 * Guarantees: a file counts as verified only if `verify` said so, against the trust bundle and device certificates that were
 * themselves verified against it; of a record with a MAC only its attestation is verified, and that is said; statistics must also
 * agree with themselves, and records of one device that are given together must form its chain.
 * Does not say that a bundle is the right one: it must have reached its reader by a way that the reader trusts.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileErrorText } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { digestText, sameBytes } from '@countermark/protocol/digest';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { MESSAGES } from '@countermark/protocol/messages/catalogue';
import {
  DEVICE_CERTIFICATE,
  type DeviceCertificate,
  ENROLMENT_REQUEST,
} from '@countermark/protocol/messages/enrolment';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { CREDIT_GRANT, DISCOUNT_GRANT, type Grant } from '@countermark/protocol/messages/grant';
import { KEY_ROTATION, ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { type MessageType, parsePayload } from '@countermark/protocol/message';
import { describeRejection, type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { recordIdentity, type VerifiedRecord, verifyRecord } from '@countermark/verify/record';
import { verifyRotationRequest } from '@countermark/verify/rotation-request';
import { contradiction } from '@countermark/verify/statistics';
import { parseTrustBundle, type TrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, type Verified, verifyEnrolmentRequest, verifyMessage } from '@countermark/verify/verified';

/** Messages that are records of a device's chain. */
export const RECORD_TYPES: ReadonlySet<string> = new Set([
  BATCH_STATISTICS.type,
  KEY_ROTATION.type,
  FINAL_STATEMENT.type,
]);

/** What became of one file. */
export type Finding = {
  readonly file: string;
  readonly type: string;
  /** `attested`: a MAC that only its attestation could be verified of. `skipped`: no message, a trust bundle for instance. */
  readonly outcome: 'verified' | 'attested' | 'refused' | 'skipped';
  /** What was checked, or why it was refused, in words. */
  readonly words: string;
  readonly code?: string;
  readonly digest?: string;
  /** The content, once it may be believed. */
  readonly message?: unknown;
};

/** What the signature of a message proves that asks for something. */
const WORDS: Readonly<Record<string, string>> = {
  [ENROLMENT_REQUEST.type]: 'signed with the key that it asks a certificate for: this proves possession, not identity',
  [ROTATION_REQUEST.type]:
    'signed with the key in use, and the request inside it with the key that it asks a certificate for',
};

/** Verifies files against a bundle. */
export class Evidence {
  readonly #trust: Trust;
  readonly #certificates = new Map<string, Verified<DeviceCertificate>>();
  readonly #folders = new Set<string>();
  readonly #attestations = new Map<string, Uint8Array>();
  readonly #records: { readonly file: string; readonly record: VerifiedRecord }[] = [];

  /** Looks for device certificates and attestations among and beside the files. */
  constructor(bundle: TrustBundle, files: readonly string[]) {
    const keys: Trust['keys'] = (key) => trustedKeys(bundle, this.#certificates.values())(key);
    this.#trust = { port: nodeVerification, keys };
    for (const folder of new Set(files.map((file) => dirname(file)))) this.#search(folder);
  }

  /** Verifies one file. Never throws for what is in it. */
  examine(file: string): Finding {
    let bytes: Uint8Array;
    try {
      bytes = readBounded(file);
    } catch (error) {
      return refused(file, '?', rejection('file-unreadable', { file, reason: fileErrorText(error) }));
    }
    if (file.endsWith('.json')) {
      const bundle = parseTrustBundle(new TextDecoder().decode(bytes));
      if (bundle.ok) return skipped(file, 'a trust bundle: it is what the others are checked against');
    }
    const envelope = parseEnvelope(bytes);
    if (!envelope.ok) return refused(file, '?', envelope.rejection);
    const { type } = envelope.value;
    if (RECORD_TYPES.has(type)) return this.#examineRecord(file, type, bytes);
    const of = MESSAGES.find((message) => message.type === type);
    if (of === undefined)
      return refused(file, type, rejection('wrong-type', { expected: 'message of this protocol', type }));
    const verified = this.#verified(of, bytes);
    if (!verified.ok) return refused(file, type, verified.rejection);
    const { holder, epoch } = envelope.value.key;
    if (type === DISCOUNT_GRANT.type || type === CREDIT_GRANT.type) {
      const { amountMills, entitlementMills, grantedBeforeMills } = verified.value.message as Grant;
      if (amountMills !== entitlementMills - grantedBeforeMills) {
        const reason = 'it is not the entitlement less what was granted before';
        return refused(file, type, rejection('malformed', { path: 'amountMills', reason }));
      }
    }
    const words = WORDS[type] ?? `signature of ${holder} (key epoch ${epoch})`;
    return {
      file,
      type,
      outcome: 'verified',
      words,
      digest: digestText(verified.value.digest),
      message: verified.value.message,
    };
  }

  #verified(of: MessageType<unknown>, bytes: Uint8Array): Result<Verified<unknown>> {
    if (of.type === ENROLMENT_REQUEST.type) return verifyEnrolmentRequest(bytes, nodeVerification);
    if (of.type !== ROTATION_REQUEST.type) return verifyMessage(of, bytes, this.#trust);
    const rotation = verifyRotationRequest(bytes, this.#trust);
    return rotation.ok ? accept(rotation.value.request) : rotation;
  }

  /** The attestation of the digest, hex, that lies beside the files; not verified. */
  attestationOf(digest: string): Uint8Array | undefined {
    return this.#attestations.get(digest);
  }

  /** The verified certificates of these devices, exact bytes. */
  certificatesOf(devices: readonly string[]): readonly Uint8Array[] {
    return [...this.#certificates.values()]
      .filter(({ message }) => devices.includes(message.device))
      .map(({ bytes }) => bytes);
  }

  /** Where records of one device that were examined do not follow each other, in words. */
  brokenLinks(): string[] {
    const broken: string[] = [];
    const known = this.#records.map(({ file, record }) => ({ file, ...recordIdentity(record) }));
    for (const one of known) {
      for (const other of known) {
        if (other.device !== one.device) continue;
        if (other.sequence === one.sequence && !sameBytes(other.digest, one.digest) && other.file > one.file) {
          broken.push(`${one.file} and ${other.file} are two different records ${one.sequence} of ${one.device}`);
        }
        if (other.sequence === one.sequence + 1 && !sameBytes(other.previous, one.digest)) {
          broken.push(`${other.file} does not follow ${one.file} in the chain of ${one.device}`);
        }
      }
    }
    return broken;
  }

  #examineRecord(file: string, type: string, bytes: Uint8Array): Finding {
    const verified = verifyRecord(bytes, this.#trust);
    if (verified.ok) return this.#judge(file, verified.value, 'verified', 'signature of its device');
    if (verified.rejection.code !== 'mac-needs-attestation') return refused(file, type, verified.rejection);
    const envelope = parseEnvelope(bytes);
    if (!envelope.ok) return refused(file, type, envelope.rejection);
    const digest = digestText(messageDigest(envelope.value, nodeVerification.sha256));
    const attestation = this.#attestations.get(digest);
    if (attestation === undefined) {
      const finding = refused(file, type, verified.rejection);
      return { ...finding, digest, words: `${finding.words} No attestation of it lies beside it.` };
    }
    const attested = verifyAttestedRecord(bytes, attestation, this.#trust);
    if (!attested.ok) return refused(file, type, attested.rejection);
    return this.#judge(
      file,
      attested.value.record,
      'attested',
      'authenticated by a code (MAC) that only its device and the cryptographic device can check: only its attestation was verified, which names it by its digest',
    );
  }

  #judge(file: string, record: VerifiedRecord, outcome: 'verified' | 'attested', words: string): Finding {
    const { message, digest } = record.verified;
    if (record.type === 'batch-statistics') {
      const wrong = contradiction(record.verified.message);
      if (wrong !== null) return refused(file, record.type, wrong);
    }
    this.#records.push({ file, record });
    const agrees = record.type === 'batch-statistics' ? '; its counts agree with its registers' : '';
    return { file, type: record.type, outcome, words: words + agrees, digest: digestText(digest), message };
  }

  #search(folder: string): void {
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    for (const file of messageFiles(folder, [DEVICE_CERTIFICATE.type, ATTESTATION.type])) {
      const bytes = readBounded(file);
      const envelope = parseEnvelope(bytes);
      if (!envelope.ok) continue;
      if (envelope.value.type === DEVICE_CERTIFICATE.type) {
        const certificate = verifyMessage(DEVICE_CERTIFICATE, bytes, this.#trust);
        if (!certificate.ok) continue;
        const { device, epoch } = certificate.value.message;
        this.#certificates.set(`${device}#${epoch}`, certificate.value);
      } else {
        const attestation = parsePayload(ATTESTATION, envelope.value);
        if (attestation.ok) this.#attestations.set(digestText(attestation.value.digest), bytes);
      }
    }
  }
}

/** The bundle to check against: the one named, or beside the files, or of the data folder. */
export function findTrustBundle(
  named: string | undefined,
  files: readonly string[],
  data: string,
): Result<{ file: string; bundle: TrustBundle }> {
  const candidates =
    named === undefined
      ? [...new Set(files.map((file) => join(dirname(file), 'trust-bundle.json'))), join(data, 'trust-bundle.json')]
      : [named];
  const file = candidates.find((candidate) => existsSync(candidate));
  if (file === undefined) {
    const reason = 'no trust bundle is beside the files or in the data folder: name one with --trust';
    return refuse(rejection('file-unreadable', { file: candidates[0] ?? 'trust-bundle.json', reason }));
  }
  try {
    const bundle = parseTrustBundle(readFileSync(file, 'utf8'));
    return bundle.ok ? accept({ file, bundle: bundle.value }) : bundle;
  } catch (error) {
    return refuse(rejection('file-unreadable', { file, reason: fileErrorText(error) }));
  }
}

/** Certified devices whose certificates lie anywhere in a data folder, verified or not. */
export function certifiedDevices(data: string): string[] {
  const folders = readdirSync(data, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  return [data, ...folders].flatMap((folder) =>
    messageFiles(folder, [DEVICE_CERTIFICATE.type]).flatMap((file) => {
      const envelope = parseEnvelope(readBounded(file));
      if (!envelope.ok) return [];
      const certificate = parsePayload(DEVICE_CERTIFICATE, envelope.value);
      return certificate.ok && certificate.value.certified ? [certificate.value.device] : [];
    }),
  );
}

/** The messages of a type that lie in a folder as files, exact bytes, not verified. */
export function messageFilesIn(folder: string, type: string): readonly Uint8Array[] {
  return messageFiles(folder, [type]).map(readBounded);
}

const FILE_BYTES_MAX = 1024 * 1024;
/** The type stands in the protected header, which comes first. */
const HEAD_BYTES = 160;

/** Files of a folder whose first bytes name one of the types. */
function messageFiles(folder: string, types: readonly string[]): string[] {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return [];
  }
  return names.sort().flatMap((name) => {
    const file = join(folder, name);
    if (!statSync(file, { throwIfNoEntry: false })?.isFile()) return [];
    const head = headOf(file).toString('latin1');
    return types.some((type) => head.includes(`countermark/${type}`)) ? [file] : [];
  });
}

function headOf(file: string): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  const handle = openSync(file, 'r');
  try {
    return head.subarray(0, readSync(handle, head));
  } finally {
    closeSync(handle);
  }
}

function readBounded(file: string): Uint8Array {
  const found = statSync(file);
  if (!found.isFile()) throw new Error('it is no file');
  if (found.size > FILE_BYTES_MAX)
    throw new Error(`it has ${found.size} bytes; no message has more than ${FILE_BYTES_MAX}`);
  return new Uint8Array(readFileSync(file));
}

function refused(file: string, type: string, why: Rejection): Finding {
  return { file, type, outcome: 'refused', words: describeRejection(why), code: why.code };
}

function skipped(file: string, words: string): Finding {
  return { file, type: 'trust-bundle', outcome: 'skipped', words };
}
