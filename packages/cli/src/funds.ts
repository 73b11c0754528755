/**
 * `countermark funds`: what the device used and holds, accounts by customer, refills.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { errorText } from '@countermark/node-platform/fault';
import { HOST } from '@countermark/protocol/interfaces/host';
import { EXIT } from '@countermark/protocol/rejection';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { declareDeposits } from './deposits.ts';
import { fundsReport, fundsReportText } from './funds-report.ts';
import { askSupervisor, runningPaths, withHost } from './host-client.ts';
import { askServer } from './registration.ts';
import { amountText, customerText, fundsLines, section } from './summary.ts';
import { formatTable } from './table.ts';
import { note, print, printJson, style } from './terminal.ts';

type Account = { readonly account: string; readonly balanceMills: string };

/** Declares the commands. */
export function declare(program: Command): void {
  const funds = program
    .command('funds')
    .summary('registers, accounts, refills: show, report, refill, deposit, payout, spoiled');
  funds.description('Funds: what the device used and holds, the accounts of the licensee and its customers, refills.');

  withShared(
    funds
      .command('show')
      .description('Shows Used, Available, Control total and Pieces of the device, and the accounts at the server.'),
    ['countermark funds show', 'countermark funds show --json'],
  ).action(async (options: SharedOptions) => {
    await carryOut(options, async () => {
      const data = userPath(options.data);
      const answer = await withHost(data, (host) => host.call(HOST.funds, {}));
      const accounts = await accountsOf(data).catch((error: unknown) => errorText(error));
      if (options.json === true) {
        printJson({ ...answer, ...(typeof accounts === 'string' ? { accountsUnreachable: accounts } : { accounts }) });
        return undefined;
      }
      print(fundsLines(answer));
      if (typeof accounts === 'string') note(`The accounts are not to be had: ${accounts}`);
      else {
        const currency = { code: answer.currency, exponent: answer.exponent };
        const rows = accounts
          .toSorted(byKind)
          .map(({ account, balanceMills }) => [...accountWords(account), amountText(balanceMills, currency)]);
        const table = formatTable(
          [{ heading: 'Account' }, { heading: 'Of' }, { heading: `Balance ${currency.code}`, right: true }],
          rows,
          { emphasis: style.bold },
        );
        print(`\n${section('Accounts at the server', table)}`);
      }
      return undefined;
    });
  });

  withShared(
    funds
      .command('report')
      .description(
        'The funds report: Used, Available, Control Sum with its check, Pieces, the deposit, and the receipt of every refill: number, date, amount, drawn credits, refusal. What a device or server that is away does not say is named as missing.',
      ),
    ['countermark funds report', 'countermark funds report --json'],
  ).action(async (options: SharedOptions) => {
    await carryOut(options, async () => {
      const data = userPath(options.data);
      const pages = await withHost(data, async (host) => {
        const answers = [await host.call(HOST.fundsReport, {})];
        for (let after = answers[0]?.next ?? null; after !== null; after = answers.at(-1)?.next ?? null) {
          answers.push(await host.call(HOST.fundsReport, { after }));
        }
        return answers;
      });
      const report = fundsReport(pages, await depositOf(data));
      if (options.json === true) printJson(report);
      else print(fundsReportText(report));
      return report.controlSumRight === false ? EXIT.fault : undefined;
    });
  });

  withShared(
    funds
      .command('refill')
      .description("Gets funds from the licensee's deposit into the device, and drawn credits with them.")
      .argument('<amount>', 'in currency units, for instance 250.00'),
    ['countermark funds refill 250.00'],
  ).action(async (amount: string, options: SharedOptions) => {
    await carryOut(options, async () => {
      const answer = await withHost(userPath(options.data), (host) => host.call(HOST.refill, { amount }));
      const currency = { code: answer.funds.currency, exponent: answer.funds.exponent };
      if (options.json === true) printJson(answer);
      else {
        print(`${currency.code} ${amountText(answer.grantedMills, currency)} granted.`);
        for (const draw of answer.draws) {
          print(
            `  of it drawn from the credit of ${customerText(draw.customer)}: ${amountText(draw.amountMills, currency)}`,
          );
        }
        print(fundsLines(answer.funds));
      }
      if (answer.refusal === null) return EXIT.done;
      note(`The refill was refused: ${answer.refusal}`);
      return EXIT.funds;
    });
  });

  declareDeposits(funds);
}

/** What the deposit holds, or why that is not known. */
async function depositOf(data: string): Promise<{ readonly mills: string } | { readonly problem: string }> {
  try {
    const accounts = await accountsOf(data);
    const own = accounts.find(({ account }) => account.startsWith('deposit:'));
    return own === undefined ? { problem: 'the server has no account of it' } : { mills: own.balanceMills };
  } catch (error) {
    return { problem: errorText(error) };
  }
}

/** Accounts of the licensee, by the credential of its hosts. */
async function accountsOf(data: string): Promise<readonly Account[]> {
  const paths = runningPaths(data);
  const supervisor = await askSupervisor(data);
  const server = supervisor?.processes.find(({ name }) => name === 'server')?.addresses.url;
  if (typeof server !== 'string' || !existsSync(paths.credentials)) return [];
  const { licensee: credential } = JSON.parse(readFileSync(paths.credentials, 'utf8')) as { licensee?: string };
  const { licensee } = JSON.parse(readFileSync(`${paths.run}/host.json`, 'utf8')) as { licensee: string };
  const answer = (await askServer(
    { url: server, credential: credential ?? '' },
    'GET',
    `/v1/licensees/${licensee}/accounts`,
  )) as { readonly accounts: readonly Account[] };
  return answer.accounts;
}

/** Kinds of accounts in the order in which they are shown. */
const KINDS: Readonly<Record<string, string>> = {
  deposit: 'Deposit',
  device: 'In the device',
  postage: 'Postage',
  discount: 'Discounts',
  credit: 'Credit waiting',
  drawn: 'Credit drawn, waiting for a refill',
};

/** `discount:lic_x:alder-press` as words. */
function accountWords(account: string): [string, string] {
  const [kind = '', ...of] = account.split(':');
  return [KINDS[kind] ?? kind, of.length > 1 ? of.slice(1).join(':') : (of[0] ?? '')];
}

function byKind(one: Account, other: Account): number {
  const rank = ({ account }: Account): number => Object.keys(KINDS).indexOf(account.split(':')[0] ?? '');
  return rank(one) - rank(other) || one.account.localeCompare(other.account);
}
