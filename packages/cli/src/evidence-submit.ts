/**
 * `countermark evidence submit`: a host's archived records go to the postal authority itself, each with its attestation and the
 * confirmation that the server signed. For a server that confirmed a record and then lost or withheld it.
 *
 * Guarantees: nothing is sent that this command could not verify; records go in the order of their chain; what the authority says of
 * each is told by file. No credential is needed: the authority verifies every part itself.
 */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { Fault } from '@countermark/node-platform/fault';
import { unsafeUrl } from '@countermark/node-platform/transport-security';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestText } from '@countermark/protocol/digest';
import { deliveryAnswersSchema } from '@countermark/protocol/interfaces/delivery';
import {
  type Evidence,
  EVIDENCE_LIMITS,
  evidenceSchema,
  MAX_EVIDENCE,
} from '@countermark/protocol/interfaces/evidence';
import { parsePayload } from '@countermark/protocol/message';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { describeRejection, EXIT } from '@countermark/protocol/rejection';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { Evidence as Examination, findTrustBundle, messageFilesIn, RECORD_TYPES } from './evidence.ts';
import { refuseCommand, refuseUsage, valueOf } from './failure.ts';
import { partyUrl } from './server-operator.ts';
import { countText } from './summary.ts';
import { formatTable } from './table.ts';
import { print, printJson, style } from './terminal.ts';

type SubmitOptions = SharedOptions & { readonly authority?: string; readonly trust?: string };

type Ready = Evidence['items'][number] & { readonly file: string; readonly device: string; readonly sequence: number };
type Outcome = {
  readonly file: string;
  readonly sequence: number;
  readonly outcome: string;
  readonly message?: string;
};

/** Declares the command. */
export function declare(program: Command): void {
  const evidence = program.command('evidence').summary('confirmed records, brought to the authority itself: submit');
  evidence.description('Evidence against a server that confirmed a record and does not deliver it.');
  withShared(
    evidence
      .command('submit')
      .description(
        'Brings confirmed records to the postal authority itself. Attestations, confirmations and certificates are found beside the records, as the host laid them out.',
      )
      .argument('<files...>', 'record files, for instance of countermark-data/output/JOB/records')
      .option('--authority <url>', 'the postal authority (default: that of the data folder)')
      .option('--trust <file>', 'trust bundle (default: beside the files, or of the data folder)'),
    [
      'countermark evidence submit countermark-data/output/*/records/*.record.cose',
      'countermark evidence submit records/*.record.cose --authority https://authority.example',
    ],
  ).action(async (given: string[], options: SubmitOptions) => {
    await carryOut(options, () => submit(given.map(userPath), options));
  });
}

async function submit(files: readonly string[], options: SubmitOptions): Promise<number> {
  const named = options.trust === undefined ? undefined : userPath(options.trust);
  const { bundle } = valueOf(findTrustBundle(named, files, userPath(options.data)));
  const examination = new Examination(bundle, files);
  const confirmations = confirmationsBeside(files);
  const ready: Ready[] = [];
  const outcomes: Outcome[] = [];
  const without = (file: string, message: string, sequence = 0): void => {
    outcomes.push({ file, sequence, outcome: 'not sent', message });
  };
  for (const file of files) {
    const finding = examination.examine(file);
    if (!RECORD_TYPES.has(finding.type)) continue;
    if (finding.outcome === 'refused' || finding.digest === undefined) {
      without(file, finding.words);
      continue;
    }
    const { device, sequence } = finding.message as { readonly device: string; readonly sequence: number };
    const attestation = examination.attestationOf(finding.digest);
    const confirmation = confirmations.get(finding.digest);
    if (attestation === undefined) without(file, 'No attestation of it lies beside it.', sequence);
    else if (confirmation === undefined) without(file, 'No confirmation of it lies beside it.', sequence);
    else ready.push({ file, device, sequence, record: new Uint8Array(readFileSync(file)), attestation, confirmation });
  }
  if (ready.length + outcomes.length === 0) refuseUsage('No record is among these files.');
  ready.sort((one, other) => one.device.localeCompare(other.device) || one.sequence - other.sequence);
  const url = options.authority ?? (ready.length === 0 ? '' : await partyUrl(userPath(options.data), 'authority'));
  for (const part of inParts(ready)) {
    const certificates = examination.certificatesOf(part.map(({ device }) => device));
    const items = part.map(({ record, attestation, confirmation }) => ({ record, attestation, confirmation }));
    const results = await brought(url, { certificates: [...certificates], items });
    part.forEach(({ file, sequence }, index) => {
      const { outcome = 'no answer', rejection } = results[index] ?? {};
      outcomes.push({
        file,
        sequence,
        outcome,
        ...(rejection === undefined ? {} : { message: describeRejection(rejection) }),
      });
    });
  }
  const isTaken = ({ outcome }: Outcome): boolean => outcome === 'accepted' || outcome === 'already-accepted';
  if (options.json === true) printJson({ results: outcomes });
  else {
    const columns = [
      { heading: 'Record', right: true },
      { heading: 'Outcome' },
      { heading: 'File' },
      { heading: 'Why' },
    ];
    const rows = outcomes.map(({ sequence, outcome, file, message }) => [
      String(sequence),
      outcome,
      file,
      message ?? '',
    ]);
    print(formatTable(columns, rows, { emphasis: style.bold }));
    print(`${countText(outcomes.filter(isTaken).length)} of ${countText(outcomes.length)} are in the authority's log.`);
  }
  return outcomes.every(isTaken) ? EXIT.done : EXIT.unconfirmed;
}

/** As many as one request holds. */
function inParts(ready: readonly Ready[]): readonly (readonly Ready[])[] {
  const parts: Ready[][] = [];
  let bytes = Infinity;
  for (const one of ready) {
    const size = one.record.length + one.attestation.length + one.confirmation.length;
    bytes += size;
    if ((parts.at(-1)?.length ?? MAX_EVIDENCE) >= MAX_EVIDENCE || bytes > EVIDENCE_LIMITS.maxBytes / 2) {
      parts.push([]);
      bytes = size;
    }
    parts.at(-1)?.push(one);
  }
  return parts;
}

/** Confirmations in the folders of the files, by the digest that they confirm. */
function confirmationsBeside(files: readonly string[]): ReadonlyMap<string, Uint8Array> {
  const found = new Map<string, Uint8Array>();
  for (const folder of new Set(files.map((file) => dirname(file)))) {
    for (const bytes of messageFilesIn(folder, CONFIRMATION.type)) {
      const envelope = parseEnvelope(bytes);
      const confirmation = envelope.ok ? parsePayload(CONFIRMATION, envelope.value) : envelope;
      if (confirmation.ok) found.set(digestText(confirmation.value.digest), bytes);
    }
  }
  return found;
}

/** Brings them. @throws Fault where the authority cannot be reached, Refused with its code */
async function brought(url: string, evidence: Evidence) {
  const open = unsafeUrl(url, 'The authority');
  if (open !== null) refuseCommand(open.code, open.detail);
  let response: Response;
  try {
    response = await fetch(new URL('/v1/evidence', url), {
      method: 'POST',
      headers: { 'content-type': 'application/cbor' },
      body: Buffer.from(encodeWith(evidenceSchema, evidence)),
      signal: AbortSignal.timeout(60_000),
    });
  } catch (cause) {
    throw new Fault('authority-unreachable', `the authority at ${url} does not answer`, { retry: 'later', cause });
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (!response.ok) {
    const words = Buffer.from(bytes).toString().slice(0, 300);
    throw new Fault('authority-refused', `the authority answered ${response.status}: ${words}`, { retry: 'later' });
  }
  return valueOf(parseBytes(deliveryAnswersSchema, bytes)).results;
}
