/**
 * The server's process: `serve` and `check` (see node-platform/party-main).
 */
import { readFileSync } from 'node:fs';
import { systemClock } from '@countermark/node-platform/clock';
import { errorText } from '@countermark/node-platform/fault';
import {
  type PartyContext,
  type PartyProgram,
  type PublishedAddresses,
  runParty,
} from '@countermark/node-platform/party-main';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { openDatabase, type SqlDatabase } from '@countermark/sql/database';
import { parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import type { KeySource } from '@countermark/verify/verified';
import { Acceptance } from './acceptance.ts';
import { serveAcceptance } from './acceptance-socket.ts';
import { connectAuthority } from './authority-client.ts';
import { type Config, parseConfig } from './config.ts';
import { connectCryptographicDevice } from './cryptographic-device-client.ts';
import { DeliveryFollower } from './delivery.ts';
import { follow } from './follower.ts';
import { Funds } from './funds.ts';
import { GrantIntake } from './grant-intake.ts';
import { httpInterface } from './http.ts';
import { Ledger } from './ledger.ts';
import { bookPostage } from './ledger-follower.ts';
import { logProblems } from './log-check.ts';
import { Policies } from './policies.ts';
import { Registry } from './registry.ts';
import { Settlement } from './settlement.ts';
import { SqlStatisticsLog } from './statistics-log.ts';
import { MIGRATIONS, type ServerTables } from './tables.ts';

type Opened = {
  readonly database: SqlDatabase<ServerTables>;
  readonly roleKeys: KeySource;
  readonly trustBundle: string;
};

async function open(config: Config): Promise<Result<Opened>> {
  let text: string;
  try {
    text = readFileSync(config.trustBundle, 'utf8');
  } catch (error) {
    return refuse(rejection('file-unreadable', { file: config.trustBundle, reason: errorText(error) }));
  }
  const bundle = parseTrustBundle(text);
  if (!bundle.ok) return bundle;
  const database = await openDatabase<ServerTables>(config.database, {
    migrations: MIGRATIONS,
    schema: 'countermark_server',
  });
  return accept({ database, roleKeys: trustedKeys(bundle.value), trustBundle: text });
}

async function serve(config: Config, party: PartyContext): Promise<Result<PublishedAddresses>> {
  const opened = await open(config);
  if (!opened.ok) return opened;
  const { database, roleKeys, trustBundle } = opened.value;
  party.onClose(() => database.close());
  const clock = systemClock;
  const nowMs = () => clock.nowMs();
  const logs = party.log;
  const cryptographicDevice = connectCryptographicDevice(config.cdSocket);
  party.onClose(() => {
    cryptographicDevice.close();
  });
  const authority = connectAuthority(config.authority.url, config.authority.credential);
  const log = new SqlStatisticsLog(database);
  const ledger = new Ledger(database);
  const registry = new Registry(database, roleKeys);
  const policies = new Policies(registry, cryptographicDevice, config.policy);
  const { currency, highestFundsMills } = config.policy;
  const funds = new Funds({
    database,
    ledger,
    registry,
    log,
    cryptographicDevice,
    roleKeys,
    currency,
    highestFundsMills,
    nowMs,
  });
  const grants = new GrantIntake({ database, ledger, log, authority, roleKeys, nowMs });
  const delivery = new DeliveryFollower({ database, log, registry, authority, logs });
  const settlement = new Settlement(database, log, funds);
  const acceptance = new Acceptance({
    cryptographicDevice,
    log,
    registry,
    roleKeys,
    clock,
    logs,
    onAccepted: () => {
      booking.wake();
      delivering.wake();
    },
  });
  const common = { giveWay: () => acceptance.idle(), clock, log: logs, waitingMs: 200 };
  const taking = follow({ ...common, name: 'grants', step: () => grants.take(), idleMs: 5_000 });
  const booking = follow({
    ...common,
    name: 'ledger',
    step: () => bookPostage({ database, log, ledger, registry }),
    idleMs: 5_000,
  });
  const delivering = follow({
    ...common,
    name: 'delivery',
    step: async () => {
      const outcome = await delivery.deliver();
      if (outcome === 'more') taking.wake();
      return outcome;
    },
    idleMs: 5_000,
  });
  for (const follower of [taking, booking, delivering]) party.onClose(() => follower.stop());

  const socket = await serveAcceptance(config.acceptanceSocket, acceptance, logs);
  party.onClose(() => socket.close());
  const app = await httpInterface({
    acceptance,
    authority,
    cryptographicDevice,
    funds,
    grants,
    ledger,
    log,
    policies,
    registry,
    settlement,
    roleKeys,
    trustBundle,
    operatorCredential: config.operatorCredential,
    cdSessionSocket: config.cdSessionSocket,
    nowMs,
    logs,
  });
  const url = await app.listen(config.listen);
  party.onClose(() => app.close());
  return accept({ url });
}

async function check(config: Config): Promise<Result<readonly string[]>> {
  const opened = await open(config);
  if (!opened.ok) return opened;
  const { database, roleKeys } = opened.value;
  try {
    const registry = new Registry(database, roleKeys);
    const problems = await logProblems(new SqlStatisticsLog(database), registry, roleKeys);
    return accept([...problems, ...(await new Ledger(database).problems())]);
  } finally {
    await database.close();
  }
}

const program: PartyProgram<Config> = { name: 'server', parseConfig, serve, check };
await runParty(program);
