/**
 * The host's local interface over its socket: parameters checked strictly, answers as JSON texts.
 *
 * Guarantees: unknown or wrong parameters are refused with `usage`; a caller that goes away stops nothing that it had begun.
 */
import { isAbsolute } from 'node:path';
import type { RpcContext, RpcHandler, RpcHandlers } from '@countermark/node-platform/rpc';
import type { CborValue } from '@countermark/protocol/cbor';
import { JOB_ID } from '@countermark/protocol/id';
import { HOST, type HostOperation, jsonFromCbor, jsonToCbor } from '@countermark/protocol/interfaces/host';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { shippedTariff } from '@countermark/tariff/shipped';
import { template } from './mailing-desk.ts';
import { parseNumbers } from './piece-numbers.ts';
import type { HostService } from './service.ts';

/** The checks of single parameters; each returns what is wrong, or null. */
type Check = (value: unknown) => string | null;
type Checks<P> = { readonly [K in keyof Required<P>]: Check };

const text =
  (most = 4_096): Check =>
  (value) =>
    typeof value === 'string' && value !== '' && value.length <= most ? null : 'must be a text';
const path: Check = (value) => text()(value) ?? (isAbsolute(value as string) ? null : 'must be an absolute path');
const flag: Check = (value) => (typeof value === 'boolean' ? null : 'must be true or false');
const count: Check = (value) =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? null : 'must be a whole number';
const jobId: Check = (value) =>
  typeof value === 'string' && JOB_ID.test(value)
    ? null
    : 'must be letters, digits, dot, hyphen or underscore, at most 64';
const millsText: Check = (value) =>
  typeof value === 'string' && /^\d{1,18}$/.test(value) ? null : 'must be an amount in mills as a text';
const texts: Check = (value) =>
  Array.isArray(value) && value.length <= 10_000 && value.every((one) => text(64)(one) === null)
    ? null
    : 'must be a list of texts';
const tariffId: Check = (value) =>
  typeof value === 'string' && shippedTariff(value) !== undefined ? null : 'must be the id of a shipped tariff';

const mailing = {
  file: path,
  job: jobId,
  acceptGood: flag,
  encoding: text(40),
  mailingDate: text(10),
  tariff: tariffId,
};

/** The handlers of {@link HOST}. */
export function hostHandlers(service: HostService): RpcHandlers {
  const handlers: Record<string, RpcHandler> = {};
  const serve = <P, A, E>(
    of: HostOperation<P, A, E>,
    checks: Checks<P>,
    required: readonly (keyof P & string)[],
    work: (parameters: P, tell: (event: E) => void) => Promise<Result<A>> | Result<A>,
  ): void => {
    handlers[of.name] = async (value: CborValue, context: RpcContext): Promise<Result<CborValue>> => {
      const json = jsonFromCbor(value);
      if (!json.ok) return json;
      const wrong = defectOf(json.value, checks, required);
      if (wrong !== null) return refuse(rejection('usage', { reason: `${of.name}: ${wrong}.` }));
      const answer = await work(json.value as P, (event) => {
        // Nobody waits for a slow reader of progress: events to it are dropped by its socket's own bound.
        if (!context.signal.aborted) void context.progress(jsonToCbor(event));
      });
      return answer.ok ? accept(jsonToCbor(answer.value)) : answer;
    };
  };

  serve(HOST.frank, { ...mailing, keepOpen: flag }, ['file'], (p, tell) => service.runner.frank(p, tell));
  serve(HOST.stop, {}, [], async () => accept(await service.runner.stop()));
  serve(HOST.dryRun, mailing, ['file'], (p, tell) => service.dryRun.of(p, tell));
  serve(HOST.job, { job: jobId }, ['job'], (p) => service.reports.job(p.job));
  serve(HOST.wait, { job: jobId, timeoutMs: count }, [], (p) => service.waiting.wait(p.job, p.timeoutMs));
  serve(HOST.batches, { job: jobId }, [], (p) => service.batches.list(p.job));
  serve(HOST.batch, { batch: text(64), pieceNumber: count, pieceRef: text(), row: count, job: jobId }, [], (p) =>
    service.batches.show(p),
  );
  serve(HOST.spoil, { numbers: texts }, ['numbers'], async (p) => {
    const numbers = parseNumbers(p.numbers);
    return numbers.ok ? service.batches.spoil(numbers.value) : numbers;
  });
  serve(HOST.close, { batch: text(64), incomplete: flag }, [], (p) => service.batches.close(p));
  serve(HOST.reprint, { batch: text(64), numbers: texts }, [], (p) => service.batches.reprint(p));
  serve(HOST.statistics, {}, [], () => accept(service.statistics.list()));
  serve(HOST.send, {}, [], async () => accept(await service.statistics.send()));
  serve(HOST.exportRecords, { directory: path }, ['directory'], (p) => service.statistics.export(p.directory));
  serve(HOST.importRecords, { directory: path }, ['directory'], (p) => service.statistics.importRecords(p.directory));
  serve(HOST.importConfirmations, { directory: path }, ['directory'], (p) =>
    service.statistics.importConfirmations(p.directory),
  );
  serve(HOST.funds, {}, [], async () => accept(await service.funds.show()));
  serve(HOST.refill, { amount: text(40), amountMills: millsText }, [], (p) => {
    if ((p.amount === undefined) === (p.amountMills === undefined)) {
      return refuse(rejection('usage', { reason: 'Give one amount, such as 250.00.' }));
    }
    return service.funds.refill(p.amount, p.amountMills);
  });
  serve(HOST.fundsReport, { after: count }, [], async (p) => accept(await service.funds.report(p.after ?? 0)));
  serve(HOST.grants, {}, [], () => accept(service.grants.list()));
  serve(HOST.grant, { digest: text(64) }, ['digest'], (p) => service.grants.show(p.digest));
  serve(HOST.device, {}, [], async () => accept(await service.device.show()));
  serve(HOST.status, {}, [], async () => accept(await service.status()));
  serve(HOST.enrol, { customers: texts, code: text(64) }, [], (p) => service.device.enrol(p.customers ?? [], p.code));
  serve(HOST.certificate, {}, [], () => service.device.certificate());
  serve(HOST.rotate, { to: count }, [], (p) => service.rotation.rotate(p.to));
  serve(HOST.template, { customers: flag }, [], (p) => accept({ csv: template(p.customers ?? true) }));
  return handlers;
}

function defectOf(value: unknown, checks: Readonly<Record<string, Check>>, required: readonly string[]): string | null {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'parameters must be an object';
  for (const [name, given] of Object.entries(value)) {
    const check = Object.hasOwn(checks, name) ? checks[name] : undefined;
    if (check === undefined) return `${name} is not a parameter`;
    const wrong = check(given);
    if (wrong !== null) return `${name} ${wrong}`;
  }
  const missing = required.find((name) => !Object.hasOwn(value, name));
  return missing === undefined ? null : `${missing} is missing`;
}
