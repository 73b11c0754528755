/**
 * `countermark device invite`, `invitations`, `uninvite` for operators, `enrol` for the host: how a new device comes in; and
 * `certificate`: what it then shows to programs that know X.509.
 *
 * An operator issues a code for a licensee; whoever has the device enrols it with that. The code is shown once, here, and nowhere else.
 */
import { X509Certificate } from 'node:crypto';
import { type Command, InvalidArgumentError } from 'commander';
import { HOST } from '@countermark/protocol/interfaces/host';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { withHost } from './host-client.ts';
import { askServer } from './registration.ts';
import { operatorAccess, type OperatorOptions, withOperator } from './server-operator.ts';
import { timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type EnrolmentCode = {
  readonly id: string;
  readonly issuedBy: string;
  readonly issuedAtMs: number;
  readonly endsAtMs: number;
  readonly state: string;
  readonly device: string | null;
  readonly revokedBy: string | null;
};

/** Declares the commands below `device`. */
export function declareEnrolment(device: Command): void {
  withShared(
    device
      .command('enrol')
      .description(
        'Enrols the device of this host at the server. A new device needs a code that an operator of the server issued. Asked again, it changes nothing.',
      )
      .option('--code <code>', 'the enrolment code'),
    ['countermark device enrol --code CODE'],
  ).action(async (options: SharedOptions & { readonly code?: string }) => {
    await carryOut(options, async () => {
      const parameters = options.code === undefined ? {} : { code: options.code };
      const enrolled = await withHost(userPath(options.data), (host) => host.call(HOST.enrol, parameters));
      if (options.json === true) printJson(enrolled);
      else print(`${enrolled.device} is enrolled for ${enrolled.licensee ?? '?'}, key epoch ${enrolled.epoch}.`);
      return undefined;
    });
  });

  withShared(
    device
      .command('certificate')
      .description(
        "Shows the X.509 certificate of the device's signature key: it names device, licensee, key epoch and the products of its policy, for programs that know X.509. It comes with the enrolment and with each rotation, and is asked for again where the products are others. Nothing in Countermark rests on it.",
      )
      .option('--pem', 'print it as PEM')
      .option('--authority', 'the certificate of who issued it instead'),
    [
      'countermark device certificate --pem > device.pem',
      'countermark device certificate --authority --pem > authority.pem && openssl verify -CAfile authority.pem device.pem',
    ],
  ).action(async (options: SharedOptions & { readonly pem?: boolean; readonly authority?: boolean }) => {
    await carryOut(options, async () => {
      const answer = await withHost(userPath(options.data), (host) => host.call(HOST.certificate, {}));
      const pem = options.authority === true ? answer.authority : answer.certificate;
      if (options.json === true) printJson(answer);
      else print(options.pem === true ? pem.trimEnd() : certificateText(pem));
      return undefined;
    });
  });

  withOperator(
    device
      .command('invite')
      .description(
        'Issues an enrolment code for a licensee: with it one new device is enrolled, once. It is shown now and never again.',
      )
      .argument('<licensee>', 'lic_...')
      .option('--days <number>', 'how long it is good, 1 to 90', days, 7),
    ['countermark device invite lic_demo-bureau', 'countermark device invite lic_demo-bureau --days 1 --json'],
  ).action(async (licensee: string, options: OperatorOptions & { readonly days: number }) => {
    await carryOut(options, async () => {
      const issued = (await askServer(await operatorAccess(options), 'POST', pathOf(licensee), {
        days: options.days,
      })) as EnrolmentCode & { readonly code: string };
      if (options.json === true) printJson(issued);
      else {
        print(issued.code);
        note(
          `Code ${issued.id} for ${licensee}, good for one new device until ${timeText(issued.endsAtMs)}: countermark device enrol --code CODE`,
        );
      }
      return undefined;
    });
  });

  withOperator(
    device
      .command('invitations')
      .description(
        'Lists the enrolment codes of a licensee: open, used, revoked, ended. The codes themselves are not kept.',
      )
      .argument('<licensee>', 'lic_...'),
    ['countermark device invitations lic_demo-bureau'],
  ).action(async (licensee: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const { codes } = (await askServer(await operatorAccess(options), 'GET', pathOf(licensee))) as {
        readonly codes: readonly EnrolmentCode[];
      };
      if (options.json === true) printJson({ codes });
      else print(codes.length === 0 ? 'No enrolment codes.' : codeTable(codes));
      return undefined;
    });
  });

  withOperator(
    device
      .command('uninvite')
      .description('Revokes an enrolment code that is not used yet.')
      .argument('<licensee>', 'lic_...')
      .argument('<id>', 'as countermark device invitations lists it'),
    ['countermark device uninvite lic_demo-bureau 0123456789abcdef'],
  ).action(async (licensee: string, id: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const path = `${pathOf(licensee)}/${encodeURIComponent(id)}/revocation`;
      const code = (await askServer(await operatorAccess(options), 'POST', path, {})) as EnrolmentCode;
      if (options.json === true) printJson(code);
      else if (code.device === null) print(`The enrolment code ${code.id} is revoked.`);
      else print(`The enrolment code ${code.id} was used already: ${code.device} is enrolled.`);
      return undefined;
    });
  });
}

function certificateText(pem: string): string {
  const { subject, issuer, subjectAltName, serialNumber, validFrom, validTo } = new X509Certificate(pem);
  return formatPairs([
    ['Subject', subject.replaceAll('\n', ', ')],
    ['Issued by', issuer.replaceAll('\n', ', ')],
    ...namesIn(subjectAltName ?? ''),
    ['Number', serialNumber],
    ['Valid', `${validFrom} to ${validTo}`],
  ]);
}

/** What its alternative names say (protocol, `identity-name.ts`), each with what it is of. */
function namesIn(names: string): (readonly [string, string])[] {
  return names.split(', ').flatMap((uri) => {
    const [, name = '', value = ''] = /^URI:urn:countermark:([a-z]+):(.+)$/.exec(uri) ?? [];
    return name === '' ? [] : [[`${name[0]?.toUpperCase() ?? ''}${name.slice(1)}`, value] as const];
  });
}

function pathOf(licensee: string): string {
  return `/v1/licensees/${encodeURIComponent(licensee)}/enrolment-codes`;
}

function codeTable(codes: readonly EnrolmentCode[]): string {
  return formatTable(
    [
      { heading: 'Code' },
      { heading: 'State' },
      { heading: 'Issued' },
      { heading: 'By' },
      { heading: 'Good until' },
      { heading: 'Device' },
    ],
    codes.map(({ id, state, issuedAtMs, issuedBy, endsAtMs, device, revokedBy }) => [
      id,
      revokedBy === null ? state : `${state} by ${revokedBy}`,
      timeText(issuedAtMs),
      issuedBy,
      timeText(endsAtMs),
      device ?? '',
    ]),
    { emphasis: style.bold },
  );
}

function days(value: string): number {
  const number = Number(value);
  if (!/^\d{1,2}$/.test(value) || number < 1 || number > 90) {
    throw new InvalidArgumentError('1 to 90 days are expected.');
  }
  return number;
}
