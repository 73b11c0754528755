/**
 * `countermark grant`: the discounts and credits of the postal authority, with their reckoning.
 */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { type GrantReport, HOST } from '@countermark/protocol/interfaces/host';
import type { Currency } from '@countermark/protocol/money';
import { actOf } from './party-act.ts';
import { configOf, findStores } from './party-checks.ts';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { refuseCommand, refuseUsage } from './failure.ts';
import { askSupervisor, type HostClient, withHost } from './host-client.ts';
import { amountText, customerText, grantLines, section, timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { print, printJson, style } from './terminal.ts';

/** Declares the commands. */
export function declare(program: Command): void {
  const grant = program.command('grant').summary('discounts and credits: list, show, rotate-key');
  grant.description('Discounts and credits that the postal authority granted, and why.');

  withShared(grant.command('list').description('Lists the grants.'), ['countermark grant list']).action(
    async (options: SharedOptions) => {
      await carryOut(options, async () => {
        await withHost(userPath(options.data), async (host) => {
          const { grants } = await host.call(HOST.grants, {});
          if (options.json === true) printJson({ grants });
          else print(grants.length === 0 ? 'No grants yet.' : grantTable(grants, await currencyOf(host)));
        });
        return undefined;
      });
    },
  );

  withShared(
    grant
      .command('show')
      .description('Shows a grant with its reckoning and the records it rests on.')
      .argument('<digest>', "the grant's digest, or its beginning"),
    ['countermark grant show 3f9a2b1c'],
  ).action(async (digest: string, options: SharedOptions) => {
    await carryOut(options, async () => {
      await withHost(userPath(options.data), async (host) => {
        const { grants } = await host.call(HOST.grants, {});
        const found = grants.filter((known) => known.digest.startsWith(digest.toLowerCase()));
        const shown = await host.call(HOST.grant, {
          digest: found.length === 1 && found[0] ? found[0].digest : digest,
        });
        if (options.json === true) printJson(shown);
        else print(grantText(shown, await currencyOf(host)));
      });
      return undefined;
    });
  });

  withShared(
    grant
      .command('rotate-key')
      .description(
        'For the postal authority: makes its next granting key, which the one before certifies and is destroyed. Grants carry the certificates that lead to their key: whoever trusts the first one needs no other trust bundle, and what was granted stays good. Stop the authority first.',
      )
      .argument('[dir]', 'data folder of an installation, or of the authority (default: that of --data)')
      .option('--trust <file>', 'trust bundle (default: that of the folder, or of the one above)'),
    ['countermark grant rotate-key', 'countermark grant rotate-key /srv/authority --trust /srv/trust-bundle.json'],
  ).action(async (given: string | undefined, options: SharedOptions & { readonly trust?: string }) => {
    await carryOut(options, async () => {
      const data = userPath(given ?? options.data);
      if (!existsSync(data)) refuseUsage(`There is no folder ${data}.`);
      if ((await askSupervisor(data)) !== undefined) refuseCommand('store-in-use', { store: data });
      const stores = await findStores(data, options.trust === undefined ? undefined : userPath(options.trust), false);
      if (!stores.parties.includes('authority')) refuseUsage(`${data} has no store of a postal authority.`);
      const rotated = await actOf('authority', 'rotate-key', configOf('authority', stores));
      if (options.json === true) printJson(rotated);
      else print(`The granting key is of epoch ${rotated['epoch']} now: ${rotated['publicKey']}`);
      return undefined;
    });
  });
}

async function currencyOf(host: HostClient): Promise<Currency> {
  const { currency, exponent } = await host.call(HOST.funds, {});
  return { code: currency, exponent };
}

function grantTable(grants: readonly GrantReport[], currency: Currency): string {
  return formatTable(
    [
      { heading: 'Grant' },
      { heading: 'Kind' },
      { heading: 'Customer' },
      { heading: `Amount ${currency.code}`, right: true },
      { heading: 'Programme' },
      { heading: 'Period' },
      { heading: 'Revision', right: true },
    ],
    grants.map((grant) => [
      grant.digest.slice(0, 16),
      grant.kind,
      customerText(grant.customer),
      amountText(grant.amountMills, currency),
      grant.programme,
      grant.period,
      String(grant.revision),
    ]),
    { emphasis: style.bold },
  );
}

function grantText(grant: GrantReport, currency: Currency): string {
  return [
    grantLines([grant], currency),
    formatPairs([
      ['Digest', grant.digest],
      ['Granted', timeText(grant.grantedAtMs)],
      ['Programme', `${grant.programme}, version ${grant.programmeVersion}`],
    ]),
    section(
      grant.revision === 1
        ? 'Rests on the records'
        : `Rests on the records of revision ${String(grant.revision - 1)}, and on these`,
      grant.evidence.join('\n'),
    ),
  ].join('\n\n');
}
