/**
 * The server put together from its parts: database, cryptographic device, followers, acceptance socket, HTTP.
 *
 * Guarantees that what was started is closed in the reverse order when the process ends. Time and log are inputs, so that
 * tests start the same server as `main.ts` does.
 */
import { readFileSync } from 'node:fs';
import type { Clock } from '@countermark/node-platform/clock';
import { errorCode, errorText } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { readTls } from '@countermark/node-platform/transport-security';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { openDatabase, type SqlDatabase } from '@countermark/sql/database';
import { parseTrustBundle, type TrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import type { KeySource } from '@countermark/verify/verified';
import { Acceptance } from './acceptance.ts';
import { serveAcceptance } from './acceptance-socket.ts';
import { connectAuthority } from './authority-client.ts';
import { beginTrail } from './audit-trail.ts';
import { Callers } from './callers.ts';
import { type Config, FIRST_OPERATOR } from './config.ts';
import { connectCryptographicDevice } from './cryptographic-device-client.ts';
import { DeadDevices } from './dead-devices.ts';
import { DeliveryFollower } from './delivery.ts';
import { Closures } from './closures.ts';
import { Deposits } from './deposits.ts';
import { DeviceFiles } from './device-file.ts';
import { DeviceSettings } from './device-settings.ts';
import { EnrolmentCodes } from './enrolment-codes.ts';
import { Enrolment } from './enrolment.ts';
import { follow } from './follower.ts';
import { Funds } from './funds.ts';
import { GrantIntake, lastBooked } from './grant-intake.ts';
import { httpInterface } from './http.ts';
import { KeyCeremonies } from './key-ceremonies.ts';
import { Ledger } from './ledger.ts';
import { bookPostage } from './ledger-follower.ts';
import { logTailProblem } from './log-check.ts';
import { LogRecovery } from './log-recovery.ts';
import { People } from './people.ts';
import { Policies } from './policies.ts';
import { Registry } from './registry.ts';
import { SessionRevocations } from './session-revocations.ts';
import { Settlement } from './settlement.ts';
import { SpoiledPostage } from './spoiled-postage.ts';
import { SqlStatisticsLog, type StatisticsLog } from './statistics-log.ts';
import { Suspensions } from './suspensions.ts';
import { MIGRATIONS, type ServerTables } from './tables.ts';
import { Withdrawals } from './withdrawals.ts';

const DAY_MS = 86_400_000;
/** How often the authority is asked for records that this log lacks; mostly there are none. */
const RECOVERY_LOOK_MS = 600_000;

/** An open store with what verifies its content. */
export type OpenedStore = {
  readonly database: SqlDatabase<ServerTables>;
  readonly roleKeys: KeySource;
  readonly bundle: TrustBundle;
};

/** Opens the database and the trust bundle. Rejections: `file-unreadable`, those of the bundle, `store-in-use`. */
export async function openStore(
  config: Config,
  onBroken: (fault: unknown) => void = () => undefined,
): Promise<Result<OpenedStore>> {
  let text: string;
  try {
    text = readFileSync(config.trustBundle, 'utf8');
  } catch (error) {
    return refuse(rejection('file-unreadable', { file: config.trustBundle, reason: errorText(error) }));
  }
  const bundle = parseTrustBundle(text);
  if (!bundle.ok) return bundle;
  try {
    const database = await openDatabase<ServerTables>(config.database, {
      migrations: MIGRATIONS,
      schema: 'countermark_server',
      onBroken,
    });
    return accept({ database, roleKeys: trustedKeys(bundle.value), bundle: bundle.value });
  } catch (error) {
    const code = errorCode(error);
    const store = storeName(config);
    if (code === 'database-in-use') return refuse(rejection('store-in-use', { store }));
    if (code === 'database-damaged' || code === 'database-migrations') {
      return refuse(rejection('store-damaged', { store, reason: errorText(error) }));
    }
    throw error;
  }
}

/** The store for people, without the password that its URL may carry. */
function storeName({ database }: Config): string {
  return database.replace(/\/\/[^@/]*@/, '//');
}

export type ServiceContext = {
  readonly clock: Clock;
  readonly log: Log;
  readonly onClose: (hook: () => Promise<void> | void) => void;
  /** Told once when the database takes nothing more after a failed write: the process must end. */
  readonly onBroken?: (fault: unknown) => void;
};

/** A running server. */
export type Service = {
  readonly url: string;
  readonly database: SqlDatabase<ServerTables>;
  readonly acceptance: Acceptance;
  readonly log: StatisticsLog;
  readonly ledger: Ledger;
  readonly deadDevices: DeadDevices;
  readonly spoiledPostage: SpoiledPostage;
  /** Has every follower look at once. */
  readonly wake: () => void;
};

/** Starts the server. Rejections: those of {@link openStore} and `readTls`; `store-damaged` where the end of the log contradicts itself;
 * `config-invalid` where a configured operator has a person's name. */
export async function startService(config: Config, party: ServiceContext): Promise<Result<Service>> {
  const tls = readTls(config.listen);
  if (!tls.ok) return tls;
  const opened = await openStore(config, party.onBroken);
  if (!opened.ok) return opened;
  const { database, roleKeys, bundle } = opened.value;
  party.onClose(() => database.close());
  const { clock } = party;
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
  const damage = await logTailProblem({ database, log, registry, roleKeys });
  if (damage !== null) {
    return refuse(rejection('store-damaged', { store: storeName(config), reason: damage.replace(/\.$/, '') }));
  }
  const configured = new Set([FIRST_OPERATOR, ...config.operators.map(({ name }) => name)]);
  const people = new People({ database, configured, nowMs });
  const namesake = (await people.list()).find(({ name }) => configured.has(name));
  if (namesake !== undefined) {
    const reason = `${namesake.name} is a person already: what they do and what this credential does could not be told apart`;
    return refuse(rejection('config-invalid', { file: 'of the server', reason }));
  }
  await beginTrail(database, nowMs());
  const policies = new Policies(registry, cryptographicDevice, config.policy);
  const codes = new EnrolmentCodes(database, nowMs);
  const enrolment = new Enrolment({ registry, policies, cryptographicDevice, codes, roleKeys, nowMs });
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
  const grants = new GrantIntake({ database, ledger, log, authority, roleKeys, currency, nowMs });
  const suspensions = new Suspensions({ registry, log, cryptographicDevice, roleKeys });
  const withdrawals = new Withdrawals({
    database,
    registry,
    log,
    suspensions,
    nowMs,
    onWithdrawn: () => {
      delivering.wake();
    },
  });
  const deadDevices = new DeadDevices({
    database,
    ledger,
    log,
    registry,
    withdrawals,
    cryptographicDevice,
    roleKeys,
    scanWindowDays: config.scanWindowDays,
    nowMs,
    logs,
  });
  const closures = new Closures({ database, ledger, log, registry, policies, nowMs });
  const delivery = new DeliveryFollower({
    database,
    log,
    registry,
    suspensions,
    authority,
    grantsCursor: () => database.read(lastBooked),
    nowMs,
    logs,
  });
  const settlement = new Settlement(database, log, funds, registry);
  const acceptance = new Acceptance({
    cryptographicDevice,
    log,
    registry,
    suspensions,
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
    step: () =>
      bookPostage({
        database,
        log,
        ledger,
        registry,
        scanWindowMs: config.scanWindowDays * DAY_MS,
        onEnded: () => {
          refunding.wake();
        },
      }),
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
  const recovery = new LogRecovery({ database, acceptance, enrolment, registry, authority, roleKeys, logs });
  const recovering = follow({
    ...common,
    name: 'recovery',
    step: () => recovery.recover(),
    idleMs: RECOVERY_LOOK_MS,
  });
  const settleRefunds = async (): Promise<'more' | 'idle'> => {
    const closed = await closures.settleDue();
    return (await deadDevices.settleDue()) === 'more' ? 'more' : closed;
  };
  const refunding = follow({ ...common, name: 'refunds', step: settleRefunds, idleMs: 60_000 });
  const spoiledPostage = new SpoiledPostage({ database, ledger, nowMs });
  const paying = follow({
    ...common,
    name: 'spoiled postage',
    step: () => spoiledPostage.settleDue(),
    idleMs: 60_000,
  });
  const followers = [taking, booking, delivering, recovering, refunding, paying];
  for (const follower of followers) party.onClose(() => follower.stop());

  const socket = await serveAcceptance(config.acceptanceSocket, acceptance, logs);
  party.onClose(() => socket.close());
  const app = await httpInterface({
    database,
    callers: new Callers({ ...config, registry, people }),
    people,
    acceptance,
    authority,
    cryptographicDevice,
    enrolment,
    codes,
    funds,
    grants,
    ledger,
    deposits: new Deposits({ database, ledger, currency, nowMs }),
    spoiledPostage,
    log,
    policies,
    registry,
    settlement,
    keyCeremonies: new KeyCeremonies({ database, cryptographicDevice, bundle, nowMs }),
    deviceFiles: new DeviceFiles({ database, registry, log, ledger, deadDevices, closures }),
    withdrawals,
    deadDevices,
    closures,
    sessionRevocations: new SessionRevocations({ database, registry, cryptographicDevice, nowMs }),
    deviceSettings: new DeviceSettings({ database, registry, policies, nowMs }),
    currency,
    rateLimits: config.rateLimits,
    tls: tls.value,
    cdSessionSocket: config.cdSessionSocket,
    nowMs,
    logs,
  });
  const url = await app.listen({ host: config.listen.host, port: config.listen.port });
  party.onClose(() => app.close());
  const wake = (): void => {
    for (const follower of followers) follower.wake();
  };
  return accept({ url, database, acceptance, log, ledger, deadDevices, spoiledPostage, wake });
}
