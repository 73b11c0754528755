/**
 * `countermark keys list, rotate, confirm, cancel, bundle`: the keys of the cryptographic device's roles, for the officers of the server.
 *
 * Guarantees that a rotation is ordered by one and confirmed by another: the server sees to it. A bundle that is fetched is parsed before
 * it is written; it proves nothing by itself and must reach its reader by a way that the reader trusts.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { Argument, type Command } from 'commander';
import { nodeVerification } from '@countermark/node-platform/verification';
import { hex } from '@countermark/protocol/id';
import { ROTATED_KEYS } from '@countermark/protocol/message';
import { formatTrustBundle, parseTrustBundle, type TrustBundle } from '@countermark/verify/trust-bundle';
import { carryOut, userPath } from './command.ts';
import { refuseUsage, valueOf } from './failure.ts';
import { askServer } from './registration.ts';
import { operatorAccess, type OperatorOptions, withOperator } from './server-operator.ts';
import { section, timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type Ceremony = {
  readonly ceremony: string;
  readonly role: string;
  readonly reason: string;
  readonly orderedBy: string;
  readonly orderedAtMs: number;
  readonly confirmedBy: string | null;
  readonly confirmedAtMs: number | null;
  readonly cancelledBy: string | null;
  readonly cancelledAtMs: number | null;
  readonly epoch: number | null;
};

/** Digits of a key's SHA-256 that people compare. */
const FINGERPRINT_DIGITS = 16;

/** Declares the commands. */
export function declare(program: Command): void {
  const keys = program
    .command('keys')
    .summary("keys of the cryptographic device's roles: list, rotate, confirm, cancel, bundle");
  keys.description(
    "Keys of the cryptographic device's roles, of key agreement and of the sessions' authority. Each gives way to the next in a ceremony: one officer orders it, another confirms it.",
  );

  withOperator(
    keys.command('list').description('Lists the keys of all roles, of every epoch, and the key ceremonies.'),
    ['countermark keys list', 'countermark keys list --json'],
  ).action(async (options: OperatorOptions) => {
    await carryOut(options, () => list(options));
  });

  withOperator(
    keys
      .command('rotate')
      .description(
        "Orders that a role's key be rotated. Without effect before another officer confirms it. An order that is open for the role is shown again.",
      )
      .addArgument(new Argument('<role>', 'whose key').choices(ROTATED_KEYS))
      .requiredOption('--reason <text>', 'why; it stands in the audit trail'),
    ['countermark keys rotate confirming --reason "yearly"'],
  ).action(async (role: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const { reason } = options;
      tell(options, await askServer(await operatorAccess(options), 'POST', '/v1/key-ceremonies', { role, reason }));
      return undefined;
    });
  });

  withOperator(
    keys
      .command('confirm')
      .description(
        "Confirms another officer's order: the cryptographic device makes the role's next key, certifies it, signs by it from then on, and destroys the one before. Nothing in flight is lost; what was signed stays good. A key of agreement stays beside the next: each device agrees with the newest when it rotates its own (countermark device rotate). Asked again, it goes on where it ended.",
      )
      .argument('<ceremony>', 'cer_ and 32 hex digits, as countermark keys rotate showed it'),
    ['countermark keys confirm cer_0123456789abcdef0123456789abcdef --operator second-operator'],
  ).action(async (ceremony: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const path = `/v1/key-ceremonies/${encodeURIComponent(ceremony)}/confirmation`;
      tell(options, await askServer(await operatorAccess(options), 'POST', path, {}));
      return undefined;
    });
  });

  withOperator(
    keys
      .command('cancel')
      .description("Takes an order back that nobody has confirmed yet, one's own or another officer's.")
      .argument('<ceremony>', 'cer_ and 32 hex digits, as countermark keys list shows it')
      .requiredOption('--reason <text>', 'why; it stands in the audit trail'),
    ['countermark keys cancel cer_0123456789abcdef0123456789abcdef --reason "the wrong role"'],
  ).action(async (ceremony: string, options: OperatorOptions & { readonly reason: string }) => {
    await carryOut(options, async () => {
      const path = `/v1/key-ceremonies/${encodeURIComponent(ceremony)}/cancellation`;
      tell(options, await askServer(await operatorAccess(options), 'POST', path, { reason: options.reason }));
      return undefined;
    });
  });

  withOperator(
    keys
      .command('bundle')
      .description(
        'Writes a trust bundle with the keys of every epoch, for whoever begins to check now. Whoever has an older one needs no other: messages carry the certificates of newer keys.',
      )
      .argument('<file>', 'a new file'),
    ['countermark keys bundle trust-bundle-2027.json'],
  ).action(async (file: string, options: OperatorOptions) => {
    await carryOut(options, async () => {
      const path = userPath(file);
      if (existsSync(path)) refuseUsage(`The file ${path} exists; name a new one.`);
      const bundle = await fetched(options);
      writeFileSync(path, formatTrustBundle(bundle), { flag: 'wx' });
      if (options.json === true) printJson({ file: path, keys: bundle.keys.length });
      else print(`A trust bundle of ${bundle.keys.length} keys is in ${path}.`);
      return undefined;
    });
  });
}

async function list(options: OperatorOptions): Promise<undefined> {
  const bundle = await fetched(options);
  const { ceremonies } = (await askServer(await operatorAccess(options), 'GET', '/v1/key-ceremonies')) as {
    readonly ceremonies: readonly Ceremony[];
  };
  const keys = [
    ...bundle.keys.map(({ role, epoch, publicKey }) => ({
      role: role,
      epoch,
      inUse: !bundle.keys.some((other) => other.role === role && other.epoch > epoch),
      fingerprint: fingerprintOf(publicKey),
    })),
    // Of these two a bundle has what is in use alone, without its epoch: the last ceremony says it.
    ...(['agreement', 'session-authority'] as const).map((role) => ({
      role,
      epoch: Math.max(1, ...ceremonies.map((one) => (one.role === role ? (one.epoch ?? 1) : 1))),
      inUse: true,
      fingerprint: role === 'agreement' ? fingerprintOf(bundle.agreementKey) : '',
    })),
  ];
  if (options.json === true) {
    printJson({ keys, ceremonies });
    return;
  }
  const parts = [
    formatTable(
      [{ heading: 'Role' }, { heading: 'Epoch', right: true }, { heading: 'Fingerprint' }, { heading: '' }],
      keys.map(({ role, epoch, fingerprint, inUse }) => [role, String(epoch), fingerprint, inUse ? 'in use' : '']),
      { emphasis: style.bold },
    ),
  ];
  if (ceremonies.length > 0) parts.push(section('Ceremonies', ceremonyTable(ceremonies)));
  print(parts.join('\n\n'));
}

function fingerprintOf(publicKey: Uint8Array): string {
  return hex(nodeVerification.sha256(publicKey)).slice(0, FINGERPRINT_DIGITS);
}

/** What the server gives out. @throws Refused `malformed` */
async function fetched(options: OperatorOptions): Promise<TrustBundle> {
  const answer = await askServer(await operatorAccess(options), 'GET', '/v1/trust-bundle');
  return valueOf(parseTrustBundle(JSON.stringify(answer)));
}

function ceremonyTable(ceremonies: readonly Ceremony[]): string {
  return formatTable(
    [
      { heading: 'Ceremony' },
      { heading: 'Role' },
      { heading: 'Ordered' },
      { heading: 'Decided' },
      { heading: 'Epoch', right: true },
      { heading: 'Reason' },
    ],
    ceremonies.map((one) => [
      one.ceremony,
      one.role,
      `${timeText(one.orderedAtMs)} by ${one.orderedBy}`,
      decided(one) ?? '',
      one.epoch === null ? '' : String(one.epoch),
      one.reason,
    ]),
    { emphasis: style.bold },
  );
}

/** Who confirmed or cancelled it, and when; null where nobody has. */
function decided({ confirmedBy, confirmedAtMs, cancelledBy, cancelledAtMs }: Ceremony): string | null {
  if (cancelledBy !== null && cancelledAtMs !== null) return `${timeText(cancelledAtMs)} cancelled by ${cancelledBy}`;
  return confirmedBy === null || confirmedAtMs === null
    ? null
    : `${timeText(confirmedAtMs)} confirmed by ${confirmedBy}`;
}

function tell(options: OperatorOptions, answer: unknown): void {
  const ceremony = answer as Ceremony;
  const { epoch, cancelledBy } = ceremony;
  if (options.json === true) {
    printJson(ceremony);
    return;
  }
  print(
    formatPairs([
      ['Ceremony', ceremony.ceremony],
      ['Role', ceremony.role],
      ['Reason', ceremony.reason],
      ['Ordered', `by ${ceremony.orderedBy}, ${timeText(ceremony.orderedAtMs)}`],
      ['Decided', decided(ceremony) ?? 'not yet: another officer has to confirm it (countermark keys confirm)'],
      ['Key', epoch !== null ? `epoch ${epoch} is in use` : cancelledBy === null ? 'not yet' : 'none'],
    ]),
  );
  if (epoch !== null) note('Keep a backup of the cryptographic device from now: an older one has lost the key in use.');
}
