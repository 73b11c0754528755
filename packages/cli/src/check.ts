/**
 * `countermark check [DIR]`: reads the stores of every party in a folder from their first record, and says in words what is wrong.
 *
 * Guarantees: nothing is repaired; each store is examined by its own party's program, and the parties of an installation are held
 * against each other (party-checks.ts). Exit code 0: nothing is wrong; 6: something is, or a store is in use.
 */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { EXIT } from '@countermark/protocol/rejection';
import { formatMills } from '@countermark/protocol/money';
import { CheckProgress } from './check-progress.ts';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { refuseCommand, refuseUsage } from './failure.ts';
import { askSupervisor } from './host-client.ts';
import { checkParties, type DeviceMoney, findStores, type PartyFinding } from './party-checks.ts';
import { section } from './summary.ts';
import { formatPairs } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type CheckOptions = SharedOptions & { readonly trust?: string; readonly backup?: boolean };

/** Declares the command. */
export function declare(program: Command): void {
  const check = program
    .command('check')
    .summary('read every store from its first record, and say what is wrong')
    .description(
      'Reads the data of every party in the folder from the first record: chains, registers, piece records, confirmations, ledger, grants; and holds the parties against each other. Repairs nothing. Stop the installation first. Exit code 0: nothing is wrong; 6: something is.',
    )
    .argument('[dir]', 'data folder of an installation, or of one party (default: that of --data)')
    .option('--backup', 'the folder is a backup: it has no device, and must not have one')
    .option('--trust <file>', 'trust bundle (default: that of the folder, or of the one above)');
  withShared(check, [
    'countermark check',
    'countermark check /srv/franking --json',
    'countermark check /backup/franking --backup',
    'countermark check /srv/franking/host --trust /srv/franking/trust-bundle.json',
  ]).action(async (given: string | undefined, options: CheckOptions) => {
    await carryOut(options, async () => {
      const data = userPath(given ?? options.data);
      if (!existsSync(data)) refuseUsage(`There is no folder ${data}.`);
      if ((await askSupervisor(data)) !== undefined) refuseCommand('store-in-use', { store: data });
      const trust = options.trust === undefined ? undefined : userPath(options.trust);
      const stores = await findStores(data, trust, options.backup === true);
      if (stores.parties.length === 0) refuseUsage(`${data} has no store of Countermark.`);
      const progress = new CheckProgress();
      const { findings, money } = await checkParties(stores, (event) => progress.show(event)).finally(() => {
        progress.end();
      });
      const problems = findings.reduce((sum, finding) => sum + finding.problems.length, 0);
      if (options.json === true) printJson({ data, problems, checked: findings, money });
      else {
        note(`Checked ${data}; nothing was changed.`);
        print(checkText(findings, money));
      }
      return problems === 0 ? EXIT.done : CATALOGUE['store-damaged'].exit;
    });
  });
}

function checkText(findings: readonly PartyFinding[], money: readonly DeviceMoney[]): string {
  const words = ({ problems }: PartyFinding): string =>
    problems.length === 0
      ? style.green('nothing is wrong')
      : style.red(problems.length === 1 ? '1 problem' : `${problems.length} problems`);
  const parts = [section('Stores', formatPairs(findings.map((finding) => [finding.party, words(finding)] as const)))];
  for (const { device, currency: code, exponent, holdsMills, inFlightMills, unbookedMills, accountMills } of money) {
    const amount = (mills: string): string => formatMills(BigInt(mills), { code, exponent });
    parts.push(
      section(
        `Money of ${device}`,
        formatPairs([
          ['In the device', amount(holdsMills)],
          ['On the way to it', amount(inFlightMills)],
          ['Franked, not booked yet', amount(unbookedMills)],
          ['Its account in the ledger', amount(accountMills)],
        ]),
      ),
    );
  }
  for (const { party, problems } of findings) {
    if (problems.length === 0) continue;
    parts.push(section(`Wrong with ${party}`, problems.map((problem) => `- ${problem}`).join('\n')));
  }
  return parts.join('\n\n');
}
