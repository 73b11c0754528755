/**
 * `countermark person add, list, revoke`: who may do what at the server, for those who decide it.
 *
 * Guarantees that a new credential is shown once, or written to a file that only its owner reads, and is in no log.
 */
import { existsSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { writePrivateFile } from '@countermark/node-platform/private-file';
import { carryOut, userPath } from './command.ts';
import { refuseUsage } from './failure.ts';
import { askServer } from './registration.ts';
import { operatorAccess, type OperatorOptions, withOperator } from './server-operator.ts';
import { timeText } from './summary.ts';
import { formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type Person = {
  readonly name: string;
  readonly role: string;
  readonly licensee: string | null;
  readonly customer: string | null;
  readonly addedBy: string;
  readonly addedAtMs: number;
  readonly revokedBy: string | null;
  readonly revokedAtMs: number | null;
};
type AddOptions = OperatorOptions & {
  readonly role: string;
  readonly licensee?: string;
  readonly customer?: string;
  readonly credentialTo?: string;
};

const ROLES = ['operator', 'officer', 'auditor', 'customer'] as const;

/** Declares the commands. */
export function declare(program: Command): void {
  const person = program.command('person').summary('people at the server and their roles: add, list, revoke');
  person.description(
    'People at the server, each with one role and a credential of their own (docs/authorisation.md): add, list, revoke.',
  );

  withOperator(
    person
      .command('add')
      .description(
        'Adds a person; the server makes their credential and shows it this once. Officers are added by the first credential of the server alone.',
      )
      .argument('<name>', 'lower case letters, digits, hyphens; given once, for ever')
      .addOption(
        new Option(
          '--role <role>',
          'operator: licensees, deposits, devices; officer: confirms what needs two; auditor: reads; customer: reads its own',
        )
          .choices(ROLES)
          .makeOptionMandatory(),
      )
      .option('--licensee <id>', 'the licensee of a customer, lic_...')
      .option('--customer <id>', "the customer of that licensee; without it, all of the licensee's")
      .option('--credential-to <file>', 'write the credential to this new file instead of showing it'),
    [
      'countermark person add alice --role officer --credential-to alice.credential',
      'countermark person add acme-books --role customer --licensee lic_bureau --customer acme',
    ],
  ).action(async (name: string, options: AddOptions) => {
    await carryOut(options, () => add(name, options));
  });

  withOperator(person.command('list').description('Lists people with their roles, revoked ones too.'), [
    'countermark person list',
    'countermark person list --json',
  ]).action(async (options: OperatorOptions) => {
    await carryOut(options, async () => {
      const answer = (await askServer(await operatorAccess(options), 'GET', '/v1/people')) as {
        readonly people: readonly Person[];
      };
      if (options.json === true) printJson(answer);
      else print(answer.people.length === 0 ? 'Nobody yet.' : peopleTable(answer.people));
      return undefined;
    });
  });

  withOperator(
    person
      .command('revoke')
      .description('Revokes a credential for good, from the next request on. What was done with it stays done.')
      .argument('<name>', 'as in countermark person list'),
    ['countermark person revoke alice'],
  ).action(async (name: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const path = `/v1/people/${encodeURIComponent(name)}/revocation`;
      const revoked = (await askServer(await operatorAccess(options), 'POST', path, {})) as Person;
      if (options.json === true) printJson(revoked);
      else print(`The credential of ${revoked.name} (${revoked.role}) is revoked, by ${revoked.revokedBy ?? ''}.`);
      return undefined;
    });
  });
}

async function add(name: string, options: AddOptions): Promise<undefined> {
  const { role, licensee, customer } = options;
  const file = options.credentialTo === undefined ? undefined : userPath(options.credentialTo);
  // Before the credential is made: it could not be asked for again.
  if (file !== undefined && existsSync(file)) refuseUsage(`The file ${file} exists; name a new one.`);
  const answer = (await askServer(await operatorAccess(options), 'POST', '/v1/people', {
    name,
    role,
    ...(licensee === undefined ? {} : { licensee }),
    ...(customer === undefined ? {} : { customer }),
  })) as { readonly name: string; readonly role: string; readonly credential: string };
  const { credential, ...added } = answer;
  if (file !== undefined) await writePrivateFile(file, `${credential}\n`);
  if (options.json === true) printJson(file === undefined ? answer : { ...added, file });
  else print(file === undefined ? credential : `The credential of ${name} (${role}) is in ${file}.`);
  if (options.json !== true && file === undefined) {
    note(`This is the credential of ${name} (${role}). It is shown this once: the server keeps a hash of it only.`);
  }
}

function peopleTable(people: readonly Person[]): string {
  return formatTable(
    [{ heading: 'Name' }, { heading: 'Role' }, { heading: 'Of' }, { heading: 'Added' }, { heading: 'Revoked' }],
    people.map((one) => [
      one.name,
      one.role,
      [one.licensee, one.customer].filter((part) => part !== null).join(' '),
      `${timeText(one.addedAtMs)} by ${one.addedBy}`,
      one.revokedAtMs === null ? '' : `${timeText(one.revokedAtMs)} by ${one.revokedBy ?? ''}`,
    ]),
    { emphasis: style.bold },
  );
}
