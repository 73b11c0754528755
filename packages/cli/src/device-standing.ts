/**
 * `countermark device list, show, close, profile, inspected, evidence, withdraw, revoke-session, declare-dead, confirm-dead`: the server's devices, for its operators.
 *
 * Guarantees: evidence is verified again here, with the trust bundle, before it is shown; the server is not believed.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { nodeVerification } from '@countermark/node-platform/verification';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import type { Currency } from '@countermark/protocol/money';
import { describeRejection, EXIT } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { ENDED_EPOCH } from '@countermark/verify/chain';
import type { VerifiedRecord } from '@countermark/verify/record';
import { formatTrustBundle, type TrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { carryOut, userPath } from './command.ts';
import { findTrustBundle } from './evidence.ts';
import { valueOf } from './failure.ts';
import { differences, meaning } from './record-difference.ts';
import { askServer } from './registration.ts';
import { operatorAccess, type OperatorOptions, withOperator } from './server-operator.ts';
import { amountText, countText, section, timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type DeviceLine = {
  readonly device: string;
  readonly licensee: string;
  readonly standing: (typeof STANDINGS)[number];
  readonly reason: string;
  readonly sequence: number;
  readonly evidence: number;
  readonly balanceMills: string;
};
type Death = {
  readonly reason: string;
  readonly declaredBy: string;
  readonly declaredAtMs: number;
  readonly confirmedBy: string | null;
  readonly confirmedAtMs: number | null;
  readonly refundAfterMs: number | null;
  readonly settled: 'open' | 'refunded' | 'withheld';
  readonly refundedMills: string | null;
};
type Closure = {
  readonly reason: string;
  readonly operator: string;
  readonly atMs: number;
  readonly sequence: number | null;
  readonly returnedMills: string | null;
  readonly settled: 'open' | 'refunded' | 'withheld';
};
type DeviceFile = DeviceLine & {
  readonly currency: Currency;
  readonly suspendedAfter: number | null;
  readonly head: {
    readonly digest: string;
    readonly epoch: number;
    readonly ascendingMills: string;
    readonly descendingMills: string;
    readonly pieces: number;
    readonly receivedMills: string;
  };
  readonly death: Death | null;
  readonly closure: Closure | null;
  readonly profile: string;
  readonly inspectedAtMs: number | null;
  readonly policyVersion: number;
  readonly acts: readonly {
    readonly act: string;
    readonly operator: string;
    readonly words: string;
    readonly atMs: number;
  }[];
};
type Exhibit = {
  readonly sequence: number;
  readonly digest: string;
  readonly record: string;
  readonly attestation: string;
  readonly certificate: string | null;
  readonly atMs: number;
};
type EvidenceCase = { readonly code: string; readonly refused: Exhibit; readonly accepted: Exhibit | null };

const STANDINGS = ['good', 'suspended', 'withdrawn', 'dead', 'closing', 'closed'] as const;
const PAGE = 1_000;

/** Declares the commands below `device`. */
export function declareStanding(device: Command): void {
  withOperator(
    device
      .command('list')
      .description("Lists the server's devices with their standing: good, suspended, withdrawn, dead, closing, closed.")
      .addOption(new Option('--standing <standing>', 'only these').choices(STANDINGS)),
    ['countermark device list', 'countermark device list --standing suspended --json'],
  ).action(async (options: OperatorOptions & { readonly standing?: string }) => {
    await carryOut(options, () => list(options));
  });

  withOperator(
    device
      .command('show')
      .description('Shows what the server has of a device: chain, balance, declarations, and what operators did.')
      .argument('<device>', 'psd_ and 16 hex digits'),
    ['countermark device show psd_0123456789abcdef'],
  ).action(async (id: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const file = (await askServer(await operatorAccess(options), 'GET', pathOf(id))) as DeviceFile;
      if (options.json === true) printJson(file);
      else print(fileText(file));
      return undefined;
    });
  });

  withOperator(
    device
      .command('close')
      .description(
        "Closes a device on its owner's wish, for good: what it holds is closed and reported, it makes its final statement, its remaining funds go back to the deposit, and its keys are erased. What it reports still earns its discounts. Its host carries it out by itself.",
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .requiredOption('--reason <text>', 'why; it stands in the acts of the device'),
    ['countermark device close psd_0123456789abcdef --reason "line 2 is taken down"'],
  ).action(async (id: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const { reason } = options;
      const closure = (await askServer(await operatorAccess(options), 'POST', `${pathOf(id)}/closure`, {
        reason,
      })) as Closure;
      if (options.json === true) printJson({ device: id, ...closure });
      else print(formatPairs([['Device', id], ...closureLines(closure)]));
      return undefined;
    });
  });

  withOperator(
    device
      .command('profile')
      .description(
        'Chooses the reporting deadlines of a device: 72h (locks after 3 days), 21+7, 90+30, or standard. It takes them with its next policy.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .argument('<profile>', '72h, 21+7, 90+30 or standard'),
    ['countermark device profile psd_0123456789abcdef 72h'],
  ).action(async (id: string, profile: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      tellSetting(
        id,
        options,
        await askServer(await operatorAccess(options), 'POST', `${pathOf(id)}/profile`, { profile }),
      );
      return undefined;
    });
  });

  withOperator(
    device
      .command('inspected')
      .description(
        'Notes that a device was inspected now: its next policy names the date, which lifts the lock for want of it.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .requiredOption('--reason <text>', 'who inspected it, and what was found'),
    ['countermark device inspected psd_0123456789abcdef --reason "seal 4711 whole, seen by the post"'],
  ).action(async (id: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const { reason } = options;
      tellSetting(
        id,
        options,
        await askServer(await operatorAccess(options), 'POST', `${pathOf(id)}/inspection`, { reason }),
      );
      return undefined;
    });
  });

  withOperator(
    device
      .command('evidence')
      .description(
        'Shows the records of a device that were authentic and not accepted, each beside the accepted one, verified again, and says in words what differs.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .option('--export <folder>', 'write the records with what verifies them, for countermark verify')
      .option('--trust <file>', 'trust bundle (default: of the data folder)')
      .option('--all', 'show also what is the same in both'),
    [
      'countermark device evidence psd_0123456789abcdef',
      'countermark device evidence psd_0123456789abcdef --export case-17 && countermark verify case-17/*',
    ],
  ).action(async (id: string, options: EvidenceOptions) => {
    await carryOut(options, () => evidence(id, options));
  });

  withOperator(
    device
      .command('withdraw')
      .description(
        'Withdraws a device for good: no funds, no release, and for records after the last accepted one no grants and no credits; the signed withdrawal names that record. What it still reports is accepted, marked. It goes on only as a new device, enrolled with new keys.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .requiredOption('--reason <text>', 'why; it stands in the signed withdrawal'),
    ['countermark device withdraw psd_0123456789abcdef --reason "copied: evidence of 22 November"'],
  ).action(async (id: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const { reason } = options;
      const access = await operatorAccess(options);
      const answer = (await askServer(access, 'POST', `${pathOf(id)}/withdrawal`, { reason })) as {
        readonly reason: string;
        readonly suspension: string | null;
        readonly afterSequence: number;
      };
      if (options.json === true) printJson({ device: id, ...answer });
      else print(`${id} is withdrawn for good: ${answer.reason}\nStands: ${standsText(answer.afterSequence)}.`);
      if (answer.suspension === null) {
        note(
          'The cryptographic device is away: it signs the withdrawal as soon as it is back, and the authority is told then.',
        );
      }
      return undefined;
    });
  });

  withOperator(
    device
      .command('revoke-session')
      .description(
        'Revokes the session keys that a device has now, where somebody else may have one. It reports without a session until its keys are rotated; nothing else changes for it.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .requiredOption('--reason <text>', 'why; it stands in the acts of the device'),
    ['countermark device revoke-session psd_0123456789abcdef --reason "its disk was sold"'],
  ).action(async (id: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const { reason } = options;
      const access = await operatorAccess(options);
      const answer = (await askServer(access, 'POST', `${pathOf(id)}/session-revocation`, { reason })) as {
        readonly epoch: number;
        readonly reason: string;
      };
      if (options.json === true) printJson({ device: id, ...answer });
      else print(`${id} gets no session with its keys up to epoch ${answer.epoch}: ${answer.reason}`);
      return undefined;
    });
  });

  withOperator(
    device
      .command('declare-dead')
      .description(
        'Declares a device dead: lost, burnt, broken for good. Without effect before another operator confirms it.',
      )
      .argument('<device>', 'psd_ and 16 hex digits')
      .requiredOption('--reason <text>', 'what happened to it'),
    ['countermark device declare-dead psd_0123456789abcdef --reason "burnt with the building"'],
  ).action(async (id: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const { reason } = options;
      tellDeath(id, options, await askServer(await operatorAccess(options), 'POST', `${pathOf(id)}/death`, { reason }));
      return undefined;
    });
  });

  withOperator(
    device
      .command('confirm-dead')
      .description(
        "Confirms another operator's declaration: the device is withdrawn for good; its balance goes back to the deposit when the scan window has passed.",
      )
      .argument('<device>', 'psd_ and 16 hex digits'),
    [
      'countermark device confirm-dead psd_0123456789abcdef --operator second-operator',
      'countermark device confirm-dead psd_0123456789abcdef --server https://server.example --credential my-credential',
    ],
  ).action(async (id: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      tellDeath(
        id,
        options,
        await askServer(await operatorAccess(options), 'POST', `${pathOf(id)}/death/confirmation`, {}),
      );
      return undefined;
    });
  });
}

type EvidenceOptions = OperatorOptions & {
  readonly export?: string;
  readonly trust?: string;
  readonly all?: boolean;
};

function pathOf(device: string): string {
  return `/v1/devices/${encodeURIComponent(device)}`;
}

async function list(options: OperatorOptions & { readonly standing?: string }): Promise<undefined> {
  const access = await operatorAccess(options);
  const devices: DeviceLine[] = [];
  let currency: Currency | undefined;
  for (;;) {
    const after = devices.at(-1)?.device;
    const query = new URLSearchParams({
      limit: String(PAGE),
      ...(after === undefined ? {} : { after }),
      ...(options.standing === undefined ? {} : { standing: options.standing }),
    });
    const page = (await askServer(access, 'GET', `/v1/devices?${query.toString()}`)) as {
      readonly currency: Currency;
      readonly devices: readonly DeviceLine[];
    };
    ({ currency } = page);
    devices.push(...page.devices);
    if (page.devices.length < PAGE) break;
  }
  if (options.json === true) printJson({ currency, devices });
  else if (devices.length === 0) print('No such device.');
  else print(deviceTable(devices, currency));
}

function deviceTable(devices: readonly DeviceLine[], currency: Currency): string {
  return formatTable(
    [
      { heading: 'Device' },
      { heading: 'Licensee' },
      { heading: 'Standing' },
      { heading: 'Records', right: true },
      { heading: 'Evidence', right: true },
      { heading: `Balance ${currency.code}`, right: true },
      { heading: 'Reason' },
    ],
    devices.map((one) => [
      one.device,
      one.licensee,
      one.standing,
      countText(one.sequence),
      one.evidence === 0 ? '' : countText(one.evidence),
      amountText(one.balanceMills, currency),
      one.reason,
    ]),
    { emphasis: style.bold },
  );
}

/** Which records of a suspended device count. */
function standsText(afterSequence: number): string {
  return afterSequence === 0 ? 'no record' : `its records up to ${afterSequence}; later ones earn nothing`;
}

function fileText(file: DeviceFile): string {
  const { currency, head, death, closure, acts } = file;
  const amount = (mills: string): string => `${currency.code} ${amountText(mills, currency)}`;
  const parts = [
    formatPairs([
      ['Device', file.device],
      ['Licensee', file.licensee],
      ['Standing', file.reason === '' ? file.standing : `${file.standing}: ${file.reason}`],
      ...(file.suspendedAfter === null ? [] : [['Stands', standsText(file.suspendedAfter)] as const]),
      ['Last record', file.sequence === 0 ? '(none)' : `${file.sequence}, ${head.digest}`],
      ['Key epoch', keyEpoch(head.epoch)],
      ['Pieces', countText(head.pieces)],
      ['Funds received', amount(head.receivedMills)],
      ['Used', amount(head.ascendingMills)],
      ['Available', amount(head.descendingMills)],
      ['Balance', `${amount(file.balanceMills)} (granted, less what its accepted records franked)`],
      ['Deadlines', file.profile === '' ? 'standard of the server' : file.profile],
      ...(file.inspectedAtMs === null ? [] : [['Inspected', timeText(file.inspectedAtMs)] as const]),
      ['Policy', file.policyVersion === 0 ? '(none)' : `version ${file.policyVersion} is the newest that was signed`],
      [
        'Evidence',
        file.evidence === 0 ? '(none)' : `${countText(file.evidence)}: see countermark device evidence ${file.device}`,
      ],
    ]),
  ];
  if (death !== null) parts.push(section('Declared dead', formatPairs(deathLines(death, currency))));
  if (closure !== null) parts.push(section('Closing', formatPairs(closureLines(closure, currency))));
  if (acts.length > 0) {
    const rows = acts.map(({ atMs, act, operator, words }) => [
      timeText(atMs),
      act,
      operator === '' ? '(by itself)' : operator,
      words,
    ]);
    const columns = [{ heading: 'When' }, { heading: 'What' }, { heading: 'Who' }, { heading: 'Words' }];
    parts.push(section('Acts', formatTable(columns, rows, { emphasis: style.bold })));
  }
  return parts.join('\n\n');
}

function keyEpoch(epoch: number): string {
  if (epoch === 0) return '(no record yet)';
  return epoch === ENDED_EPOCH ? '(none: it has made its final statement)' : String(epoch);
}

const SETTLED = {
  open: '',
  refunded: 'paid back to the deposit',
  withheld: 'withheld: a fork is known, and a copy may have spent it',
} as const;

function deathLines(death: Death, currency?: Currency): (readonly [string, string])[] {
  const { declaredBy, declaredAtMs, confirmedBy, confirmedAtMs, refundAfterMs, refundedMills } = death;
  const amount =
    currency === undefined || refundedMills === null ? '' : `${currency.code} ${amountText(refundedMills, currency)} `;
  const outcome = SETTLED[death.settled];
  return [
    ['Reason', death.reason],
    ['Declared', `by ${declaredBy}, ${timeText(declaredAtMs)}`],
    [
      'Confirmed',
      confirmedBy === null || confirmedAtMs === null
        ? 'not yet: another operator has to (countermark device confirm-dead)'
        : `by ${confirmedBy}, ${timeText(confirmedAtMs)}`,
    ],
    ...(refundAfterMs === null
      ? []
      : [['Balance', outcome === '' ? `paid back after ${timeText(refundAfterMs)}` : `${amount}${outcome}`] as const]),
  ];
}

function closureLines(closure: Closure, currency?: Currency): (readonly [string, string])[] {
  const { reason, operator, atMs, sequence, returnedMills, settled } = closure;
  const amount =
    currency === undefined || returnedMills === null ? '' : `${currency.code} ${amountText(returnedMills, currency)} `;
  const balance = {
    open: sequence === null ? 'goes back after that' : `${amount}goes back when all of it is booked`,
    refunded: `${amount}paid back to the deposit`,
    withheld: SETTLED.withheld,
  };
  return [
    ['Reason', reason],
    ['Ordered', operator === '' ? 'by nobody here: close it again' : `by ${operator}, ${timeText(atMs)}`],
    ['Final statement', sequence === null ? 'not yet: its host carries it out' : `record ${sequence}`],
    ['Balance', balance[settled]],
  ];
}

function tellSetting(device: string, options: OperatorOptions, answer: unknown): void {
  const { profile, inspectedAtMs, policySigned } = answer as {
    readonly profile: string;
    readonly inspectedAtMs: number | null;
    readonly policySigned: boolean;
  };
  if (options.json === true) printJson({ device, profile, inspectedAtMs, policySigned });
  else {
    print(
      formatPairs([
        ['Device', device],
        ['Deadlines', profile === '' ? 'standard of the server' : profile],
        ['Inspected', inspectedAtMs === null ? '(never)' : timeText(inspectedAtMs)],
      ]),
    );
    note(
      'The device takes it with its next policy: its host fetches that by itself, or at once by countermark statistics send there.',
    );
  }
  if (!policySigned) note('The cryptographic device is away: the policy is signed when the host asks for it.');
}

function tellDeath(device: string, options: OperatorOptions, answer: unknown): void {
  const death = answer as Death;
  if (options.json === true) printJson({ device, ...death });
  else print(formatPairs([['Device', device], ...deathLines(death)]));
}

async function evidence(device: string, options: EvidenceOptions): Promise<number> {
  const named = options.trust === undefined ? undefined : userPath(options.trust);
  const { bundle } = valueOf(findTrustBundle(named, [], userPath(options.data)));
  const access = await operatorAccess(options);
  const { cases } = (await askServer(access, 'GET', `${pathOf(device)}/evidence`)) as {
    readonly cases: readonly EvidenceCase[];
  };
  const examined = cases.map((one) => examine(one, bundle));
  const folder = options.export === undefined ? undefined : userPath(options.export);
  const files = folder === undefined ? [] : exported(cases, bundle, folder);
  if (options.json === true) {
    printJson({ device, cases: examined.map(caseJson), ...(folder === undefined ? {} : { folder, files }) });
  } else if (cases.length === 0) print(`There is no evidence against ${device}.`);
  else {
    for (const [index, one] of examined.entries()) print(caseText(one, index + 1, options.all === true));
    if (folder !== undefined) print(`${countText(files.length)} files in ${folder}.`);
  }
  return examined.every(({ refusal }) => refusal === null) ? EXIT.done : EXIT.input;
}

type Examined = EvidenceCase & {
  /** Why what the server showed is no evidence, or null. */
  readonly refusal: string | null;
  readonly acceptedRecord: VerifiedRecord | null;
  readonly refusedRecord: VerifiedRecord | null;
};

/** Verifies both records again, by the trust bundle alone. */
function examine(one: EvidenceCase, bundle: TrustBundle): Examined {
  const refused = verified(one.refused, bundle);
  const accepted = one.accepted === null ? accept(null) : verified(one.accepted, bundle);
  const wrong = [refused, accepted].flatMap((result) => (result.ok ? [] : [describeRejection(result.rejection)]));
  return {
    ...one,
    refusal: wrong[0] ?? null,
    acceptedRecord: accepted.ok ? accepted.value : null,
    refusedRecord: refused.ok ? refused.value : null,
  };
}

function verified(exhibit: Exhibit, bundle: TrustBundle): Result<VerifiedRecord> {
  const certificate =
    exhibit.certificate === null
      ? null
      : verifyMessage(DEVICE_CERTIFICATE, bytesOf(exhibit.certificate), {
          port: nodeVerification,
          keys: trustedKeys(bundle),
        });
  if (certificate !== null && !certificate.ok) return certificate;
  const keys = trustedKeys(bundle, certificate === null ? [] : [certificate.value]);
  const trust = { port: nodeVerification, keys };
  const attested = verifyAttestedRecord(bytesOf(exhibit.record), bytesOf(exhibit.attestation), trust);
  return attested.ok ? accept(attested.value.record) : attested;
}

function caseJson({ code, refused, accepted, refusal, acceptedRecord, refusedRecord }: Examined): object {
  return {
    code,
    sequence: refused.sequence,
    verified: refusal === null,
    ...(refusal === null ? {} : { refusal }),
    accepted: accepted === null ? null : { sequence: accepted.sequence, digest: accepted.digest, atMs: accepted.atMs },
    refused: { sequence: refused.sequence, digest: refused.digest, atMs: refused.atMs },
    words: refusedRecord === null ? [] : meaning(acceptedRecord, refusedRecord),
    differences: refusedRecord === null ? [] : differences(acceptedRecord, refusedRecord),
  };
}

function caseText(one: Examined, number: number, all: boolean): string {
  const { code, refused, accepted, refusal, acceptedRecord, refusedRecord } = one;
  const heading = `Case ${number}: ${code} at record ${refused.sequence}, ${timeText(refused.atMs)}`;
  if (refusal !== null || refusedRecord === null) {
    return section(heading, `${style.red('not verified')}: ${refusal ?? ''} This proves nothing against the device.`);
  }
  const rows = differences(acceptedRecord, refusedRecord)
    .filter(({ differs }) => all || differs || acceptedRecord === null)
    .map(({ what, accepted: left, refused: right, differs }) => [
      what,
      shortened(left),
      shortened(right),
      differs ? 'differs' : '',
    ]);
  const columns = [
    { heading: '' },
    { heading: accepted === null ? 'Accepted: none' : `Accepted ${timeText(accepted.atMs)}` },
    { heading: 'Not accepted' },
    { heading: '' },
  ];
  const words = meaning(acceptedRecord, refusedRecord);
  return section(heading, `${words.join('\n')}\n\n${formatTable(columns, rows, { emphasis: style.bold })}\n`);
}

/** A digest as it fits in a table; the whole one is in the JSON. */
function shortened(text: string): string {
  return /^[0-9a-f]{64}$/.test(text) ? text.slice(0, 16) : text;
}

/** Writes every record with its attestation and certificate, and the trust bundle; answers the names of the files. */
function exported(cases: readonly EvidenceCase[], bundle: TrustBundle, folder: string): readonly string[] {
  const files = new Map<string, Uint8Array | string>([['trust-bundle.json', formatTrustBundle(bundle)]]);
  const add = (exhibit: Exhibit, standing: string): void => {
    const name = `${String(exhibit.sequence).padStart(8, '0')}-${standing}-${exhibit.digest.slice(0, 8)}`;
    files.set(`${name}.record.cose`, bytesOf(exhibit.record));
    files.set(`${name}.attestation.cose`, bytesOf(exhibit.attestation));
    if (exhibit.certificate === null) return;
    const certificate = bytesOf(exhibit.certificate);
    const known = nodeVerification.sha256(certificate);
    files.set(`device-certificate-${Buffer.from(known).toString('hex').slice(0, 8)}.cose`, certificate);
  };
  for (const { accepted, refused, code } of cases) {
    if (accepted !== null) add(accepted, 'accepted');
    add(refused, code);
  }
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of files) writeFileSync(join(folder, name), content);
  return [...files.keys()];
}

function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64url'));
}
