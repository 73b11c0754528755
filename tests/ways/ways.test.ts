/**
 * The 32 ways (docs/claims.md): {signature, MAC} x {session, sessionless} x {memory in the PSD, in the host} x {at once, held}
 * x {one mailer, a bureau with customers}, by configuration alone.
 *
 * Each way has a fresh device, licensee, PSD process and host process, against one server, cryptographic device and authority.
 * All end with the same pieces, postage and registers, and with the same grants within one mailer's and within a bureau's.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type BatchReport, HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { hex, unhex } from '@countermark/protocol/id';
import { parseIndicium } from '@countermark/protocol/layout';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { parseEnvelope } from '@countermark/protocol/cose';
import { type AttestedRecord, verifyAttestedRecord } from '@countermark/verify/attested-record';
import { parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, verifyMessage } from '@countermark/verify/verified';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Line, readSample, startInstallation, type TestInstallation } from '../installation.ts';

const PIECES = 2_699;
const POSTAGE_MILLS = 4_046_430n;
const REFILL_MILLS = 10_000_000n;
const DAY_MS = 86_400_000;

const WAYS = ['one', 'many'].flatMap((customers) =>
  ['signature', 'mac'].flatMap((authentication) =>
    ['sessionless', 'session'].flatMap((transport) =>
      ['host', 'psd'].flatMap((records) =>
        ['at-once', 'hold'].map(
          (forwarding) => ({ customers, authentication, transport, records, forwarding }) as const,
        ),
      ),
    ),
  ),
) as readonly {
  customers: 'one' | 'many';
  authentication: 'signature' | 'mac';
  transport: 'sessionless' | 'session';
  records: 'host' | 'psd';
  forwarding: 'at-once' | 'hold';
}[];

/**
 * What the independent script of samples/expected.py reckons; and the same posting as one mailer's: 18 % of 722,902, and 30 % of
 * 4,046,430 / 2,699 for each of the 699 pieces above its baseline of 2,000, rounded down.
 */
const GRANTS = {
  many: {
    discounts: { 'alder-press': 3_433n, 'birch-mutual': 32_466n, 'cedar-clinic': 17_026n },
    credits: { 'alder-press': 58_285n },
  },
  one: { discounts: { '(licensee)': 130_122n }, credits: { '(licensee)': 314_389n } },
};

describe('The 32 ways', () => {
  let installation: TestInstallation;
  const files = { many: '', one: '' };

  beforeAll(async () => {
    installation = await startInstallation();
    files.many = join(installation.folder, 'bureau.csv');
    files.one = join(installation.folder, 'mailer.csv');
    writeFileSync(files.many, readSample());
    writeFileSync(files.one, withoutCustomers(readSample()));
  });
  afterAll(async () => {
    await installation.stop();
  });

  it('are thirty-two', () => {
    expect(new Set(WAYS.map((way) => JSON.stringify(way))).size).toBe(32);
  });

  it.each(WAYS.map((way, i) => [Object.values(way).join(', '), way, i] as const))('%s', async (_, way, i) => {
    const line = await installation.line(
      { ...way, licensee: `lic_way-${i}`, holdFor: DAY_MS, pages: hasPages(way) },
      { clock: way.forwarding === 'hold', refillMills: REFILL_MILLS },
    );
    try {
      const { job } = await line.host.call(HOST.frank, { file: files[way.customers], mailingDate: '2026-11-22' });
      if (way.forwarding === 'hold') await expectHeld(line, job);
      const settled = await line.host.call(HOST.wait, { job, timeoutMs: 120_000 });
      expect(settled.pending).toEqual([]);
      expect(settled.outcome).toBe('settled');
      const report = settled.report as JobReport;
      expectTotals(report);
      await expectNothingLeft(line);
      expectPrinted(report, hasPages(way));
      expectEvidence(report, installation.trustBundle, way.authentication);
      expectGrants(report, GRANTS[way.customers]);
    } finally {
      await line.stop();
    }
  });
});

/** Claims 12 and 24: stored in host memory for a day; a send does not bypass it. */
async function expectHeld(line: Line, job: string): Promise<void> {
  const held = await line.host.call(HOST.wait, { job, timeoutMs: 120_000 });
  expect(held.outcome).toBe('hold');
  await line.host.call(HOST.send, {});
  line.moveClock(DAY_MS - 60_000);
  await line.host.call(HOST.send, {});
  const { batches } = await line.host.call(HOST.batches, { job });
  expect(batches.map((batch) => [batch.state, batch.deletedFromPsd])).toEqual(batches.map(() => ['held', false]));
  expect((await line.device()).unconfirmedRecords).toBe(batches.length);
  line.moveClock(DAY_MS + 60_000);
}

function expectTotals(report: JobReport): void {
  expect(report.pieces).toBe(PIECES);
  expect(BigInt(report.postageMills)).toBe(POSTAGE_MILLS);
  expect(report.registers).toEqual({
    ascendingMills: String(POSTAGE_MILLS),
    descendingMills: String(REFILL_MILLS - POSTAGE_MILLS),
    controlTotalMills: String(REFILL_MILLS),
    pieces: PIECES,
  });
  expect(report.batches.map((batch) => [batch.state, batch.deletedFromPsd])).toEqual(
    report.batches.map(() => ['confirmed', true]),
  );
  expect(sum(report.batches.map((batch) => BigInt(batch.pieces)))).toBe(BigInt(PIECES));
  const cells = report.batches.flatMap((batch) => batch.cells);
  expect(sum(cells.map((cell) => BigInt(cell.postageMills)))).toBe(POSTAGE_MILLS);
  expect(sum(cells.map((cell) => BigInt(cell.pieces)))).toBe(BigInt(PIECES));
}

async function expectNothingLeft(line: Line): Promise<void> {
  const device = await line.device();
  expect(device).toMatchObject({ unconfirmedRecords: 0, unconfirmedPostageMills: 0n, piecesInMemory: 0, alarms: 0 });
}

/** Pages are drawn from what the print port gets, which the merge file shows: one way of each procedure and kind of customer has them. */
function hasPages({ transport, records, forwarding }: (typeof WAYS)[number]): boolean {
  return transport === 'sessionless' && records === 'host' && forwarding === 'at-once';
}

/** Every piece went through the print port: once in the merge file, and the pages are there. */
function expectPrinted(report: JobReport, pages: boolean): void {
  expect(existsSync(report.files.indicia ?? '')).toBe(pages);
  const rows = parse<Record<string, string>>(readFileSync(report.files.merge ?? '', 'utf8'), { columns: true });
  expect(rows.length).toBe(PIECES);
  expect(new Set(rows.map((row) => row['piece_number'])).size).toBe(PIECES);
  const indicia = rows.map((row) => {
    const parsed = parseIndicium(unhex(row['payload'] ?? '') ?? new Uint8Array());
    if (!parsed.ok) throw new Error(`row ${row['piece_ref']}: ${parsed.rejection.code}`);
    expect(String(parsed.value.indicium.pieceNumber)).toBe(row['piece_number']);
    return parsed.value.indicium;
  });
  expect(sum(indicia.map((indicium) => indicium.postageMills))).toBe(POSTAGE_MILLS);
  expect(indicia.every((indicium) => indicium.specimen)).toBe(true);
}

/** Record, attestation and confirmation of every batch, from the files, with public keys alone. */
function expectEvidence(report: JobReport, bundleFile: string, authentication: 'signature' | 'mac'): void {
  const folder = report.files.records;
  const messages = readdirSync(folder)
    .filter((name) => name.endsWith('.cose'))
    .map((name) => Uint8Array.from(readFileSync(join(folder, name))));
  const ofType = (type: string): Uint8Array[] =>
    messages.filter((bytes) => {
      const parsed = parseEnvelope(bytes);
      return parsed.ok && parsed.value.type === type;
    });
  const bundle = parseTrustBundle(readFileSync(bundleFile, 'utf8'));
  if (!bundle.ok) throw new Error('trust bundle');
  const roles: Trust = { port: nodeVerification, keys: trustedKeys(bundle.value) };
  const certificates = ofType('device-certificate').map((bytes) => {
    const certificate = verifyMessage(DEVICE_CERTIFICATE, bytes, roles);
    if (!certificate.ok) throw new Error(certificate.rejection.code);
    return certificate.value;
  });
  const trust: Trust = { port: nodeVerification, keys: trustedKeys(bundle.value, certificates) };
  const digests = report.batches.map((batch: BatchReport) => batch.digest).sort();
  const confirmed = ofType('confirmation').map((bytes) => {
    const confirmation = verifyMessage(CONFIRMATION, bytes, trust);
    return confirmation.ok ? hex(confirmation.value.message.digest) : confirmation.rejection.code;
  });
  expect(confirmed.sort()).toEqual(digests);
  const attestations = ofType('attestation');
  const attested = ofType('batch-statistics').map((record) => {
    const found = attestations
      .map((attestation) => verifyAttestedRecord(record, attestation, trust))
      .find((result) => result.ok);
    const value = (found as { value: AttestedRecord } | undefined)?.value;
    expect(value?.record.verified.envelope.authentication).toBe(authentication);
    return value === undefined ? 'none' : hex(value.record.verified.digest);
  });
  expect(attested.sort()).toEqual(digests);
}

function expectGrants(
  report: JobReport,
  expected: { discounts: Record<string, bigint>; credits: Record<string, bigint> },
): void {
  const byCustomer = (grants: JobReport['discounts']): Record<string, bigint> => {
    const totals: Record<string, bigint> = {};
    for (const grant of grants) {
      const customer = grant.customer ?? '(licensee)';
      totals[customer] = (totals[customer] ?? 0n) + BigInt(grant.amountMills);
    }
    return totals;
  };
  expect(byCustomer(report.discounts)).toEqual(expected.discounts);
  expect(byCustomer(report.credits)).toEqual(expected.credits);
  const digests = new Set(report.batches.map((batch) => batch.digest));
  for (const grant of [...report.discounts, ...report.credits]) {
    expect(grant.reasons.length).toBeGreaterThan(0);
    expect(grant.evidence.every((digest) => digests.has(digest))).toBe(true);
  }
}

function sum(amounts: readonly bigint[]): bigint {
  return amounts.reduce((total, amount) => total + amount, 0n);
}

/** The same pieces as one mailer's own mail. */
function withoutCustomers(csv: string): string {
  const lines = csv.split(/\r?\n/);
  return lines
    .map((line) => {
      const [reference, , ...rest] = line.split(',') as [string, string, ...string[]];
      return line === '' ? '' : [reference, ...rest].join(',');
    })
    .join('\n');
}
