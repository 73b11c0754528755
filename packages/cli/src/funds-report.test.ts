/**
 * The funds report: its check of the Control Sum, its receipts, and what it says is missing.
 */
import type { FundsReceipt, FundsReportAnswer } from '@countermark/protocol/interfaces/host';
import { expect, test } from 'vitest';
import { fundsReport, fundsReportText } from './funds-report.ts';

const receipt = (number: number, amountMills: string, rest: Partial<FundsReceipt> = {}): FundsReceipt => ({
  number,
  grantedAtMs: 1_764_500_000_000,
  amountMills,
  depositMills: amountMills,
  draws: [],
  refusal: null,
  job: null,
  taken: true,
  ...rest,
});
const page = (rest: Partial<FundsReportAnswer> = {}): FundsReportAnswer => ({
  currency: 'USD',
  exponent: 3,
  funds: {
    ascendingMills: '1000',
    descendingMills: '4000',
    controlTotalMills: '5000',
    pieces: 2,
    receivedMills: '5000',
    returnedMills: '0',
    lastGrant: 2,
    pendingRequest: null,
    currency: 'USD',
    exponent: 3,
  },
  automatic: null,
  receipts: [receipt(1, '5000')],
  next: null,
  ...rest,
});
const deposit = { mills: '95000' };

test('Used and Available together are what was received less what was returned', () => {
  const text = fundsReportText(fundsReport([page()], deposit));
  expect(text).toContain('USD 5.000, as it should be: received USD 5.000 less returned USD 0.000');
  expect(text).toMatch(/Used +USD 1\.000\n *Available +USD 4\.000\n/);
  expect(text).not.toContain('Missing');
});

test('A Control Sum that is not right is called wrong', () => {
  const { funds } = page();
  if (funds === null) throw new Error('no funds');
  const report = fundsReport([page({ funds: { ...funds, returnedMills: '1' } })], deposit);
  expect(report.controlSumRight).toBe(false);
  expect(fundsReportText(report)).toContain('WRONG: it should be received USD 5.000 less returned USD 0.001');
});

test('Receipts of all pages stand below each other: date, deposit, drawn credits, refusal, one that is not in the device yet', () => {
  const drawn = receipt(2, '3000', { depositMills: '1000', draws: [{ customer: 'alder-press', amountMills: '2000' }] });
  const refused = receipt(3, '0', { refusal: 'insufficient-deposit: the deposit holds USD 1.000' });
  const cut = receipt(4, '500', { taken: false });
  const report = fundsReport(
    [page({ receipts: [receipt(1, '2000')], next: 1 }), page({ receipts: [drawn, refused, cut] })],
    deposit,
  );
  const lines = fundsReportText(report).split('\n');
  expect(lines.find((line) => /^ *2 /.test(line))).toMatch(
    /2025-11-30 \d\d:\d\d:\d\d UTC +3\.000 +1\.000 +2\.000 +granted; credits of alder-press 2\.000/,
  );
  expect(lines.find((line) => /^ *3 /.test(line))).toContain('refused: insufficient-deposit');
  expect(lines.find((line) => /^ *4 /.test(line))).toContain('not in the device yet');
  expect(report.missing).toEqual([]);
});

test('What cannot be had is named: the device, the deposit, receipts that the host does not have', () => {
  const away = fundsReport([page({ funds: null, unreachable: 'no answer in 1,000 ms' })], {
    problem: 'the server does not answer',
  });
  expect(away).toMatchObject({ controlSumRight: null, depositMills: null });
  expect(fundsReportText(away)).toMatch(
    /Missing\n.*the device does not answer \(no answer in 1,000 ms\)\.\nThe deposit: the server does not answer\./,
  );
  expect(fundsReport([page({ receipts: [receipt(2, '1500')] })], deposit).missing).toEqual([
    "Receipts of USD 3.500: this host does not have them (its store is newer than they are); the server's ledger has.",
  ]);
});
