import type { BatchReport, GrantReport, JobReport } from '@countermark/protocol/interfaces/host';
import { describe, expect, test } from 'vitest';
import { amountText, countText, jobSummary, timeText } from './summary.ts';

const batch = (customer: string | null, sequence: number, over: Partial<BatchReport> = {}): BatchReport => ({
  id: `bat_${String(sequence).padStart(32, '0')}`,
  job: 'november',
  customer,
  product: 'usps-fcm-letter',
  pieces: 1_000,
  postageMills: '740000',
  sequence,
  digest: 'ab'.repeat(32),
  state: 'confirmed',
  deletedFromPsd: true,
  cells: [],
  firstPieceNumber: 1,
  spoiled: 0,
  reprints: 0,
  incomplete: false,
  mailingDate: '2026-11-22',
  ...over,
});

const grant = (kind: 'discount' | 'credit', customer: string, amountMills: string): GrantReport => ({
  kind,
  digest: 'cd'.repeat(32),
  customer,
  amountMills,
  programme: 'demo',
  programmeVersion: 1,
  period: '2026-11-22',
  revision: 1,
  reasons: ['Because it is so.'],
  evidence: ['ab'.repeat(32)],
  demonstration: true,
  grantedAtMs: 0,
});

const report: JobReport = {
  schema: 1,
  currency: 'USD',
  exponent: 3,
  job: 'november',
  resumed: false,
  pieces: 2_000,
  postageMills: '1480000',
  batches: [batch('alder', 1), batch('birch', 2, { state: 'held', deletedFromPsd: false })],
  discounts: [grant('discount', 'alder', '10000'), grant('discount', 'alder', '5000')],
  credits: [grant('credit', 'birch', '1001')],
  draws: [{ customer: 'alder', amountMills: '77' }],
  registers: {
    ascendingMills: '1480000',
    descendingMills: '520000',
    controlTotalMills: '2000000',
    pieces: 2_000,
  },
  pending: [{ what: 'record', sequence: 2, reason: 'held', untilMs: 86_400_000 }],
  rejectedRows: 3,
  files: { indicia: null, merge: '/data/merge.csv', records: '/data/records', errors: '/data/m.csv.errors.csv' },
};

describe('the summary of a job', () => {
  const text = jobSummary(report);

  test('has a row for each batch, with what became of its record', () => {
    expect(text).toMatch(
      /^bat_00000000 +alder +usps-fcm-letter +1,000 +740\.000 +1 +authenticated, confirmed +deleted$/m,
    );
    expect(text).toMatch(/^bat_00000000 +birch +usps-fcm-letter +1,000 +740\.000 +2 +held +kept$/m);
  });

  test('settles by customer, exactly: postage less discount less credit', () => {
    expect(text).toMatch(/^alder +1,000 +740\.000 +15\.000 +0\.000 +725\.000$/m);
    expect(text).toMatch(/^birch +1,000 +740\.000 +0\.000 +1\.001 +738\.999$/m);
    expect(text).toMatch(/^Total +2,000 +1,480\.000 +15\.000 +1\.001 +1,463\.999$/m);
  });

  test('says why, what waits until when, the registers, and where files are', () => {
    expect(text).toContain('Because it is so.');
    expect(text).toContain('alder: USD 0.077');
    expect(text).toMatch(/^record 2 - held until 1970-01-02 00:00:00 UTC$/m);
    expect(text).toMatch(/^Control total +USD 2,000\.000$/m);
    expect(text).toMatch(/^Pages +\(none\)$/m);
    expect(text).toMatch(/^Rejected rows +\/data\/m\.csv\.errors\.csv$/m);
  });
});

test('amounts, counts and times are the same everywhere', () => {
  expect(amountText('-1234567', { code: 'USD', exponent: 3 })).toBe('-1,234.567');
  expect(amountText(2n ** 62n, { code: 'USD', exponent: 3 })).toBe('4,611,686,018,427,387.904');
  expect(countText(1_000_000)).toBe('1,000,000');
  expect(timeText(1_700_000_000_123)).toBe('2023-11-14 22:13:20 UTC');
});
