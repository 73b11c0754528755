/**
 * `countermark grant`: the discounts and credits of the postal authority, with their reckoning.
 */
import type { Command } from 'commander';
import { type GrantReport, HOST } from '@countermark/protocol/interfaces/host';
import type { Currency } from '@countermark/protocol/money';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { type HostClient, withHost } from './host-client.ts';
import { amountText, customerText, grantLines, section, timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { print, printJson, style } from './terminal.ts';

/** Declares the commands. */
export function declare(program: Command): void {
  const grant = program.command('grant').summary('discounts and credits: list, show');
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
