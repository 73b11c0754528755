/**
 * The postal authority, put together: store, keys, programmes, intake, settlement and HTTP; what the process and the tests
 * both start.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, errorText } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { readTls } from '@countermark/node-platform/transport-security';
import { sameBytes } from '@countermark/protocol/digest';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type TrustBundle, parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import type { Config } from './config.ts';
import type { GrantSigner } from './grant.ts';
import { openSoftwareGrantKey } from './grant-key.ts';
import { authorityHttp } from './http.ts';
import { takeIn, takeInEvidence } from './intake.ts';
import { adoptProgrammes, loadProgrammes, programmeFiles } from './programmes.ts';
import { shippedTariffs } from './rating.ts';
import { tailProblem } from './record-check.ts';
import { Settler } from './settlement.ts';
import type { AuthorityStore } from './store/authority-store.ts';
import { openAuthorityStore } from './store/sql-store.ts';

export type Authority = {
  readonly url: string;
  /** The first one, which a trust bundle names. */
  readonly grantingKey: Uint8Array;
  readonly close: () => Promise<void>;
};

/**
 * Opens everything and listens; `onBroken` is told once when the store takes nothing more after a failed write: the process must
 * end. Rejections: `config-invalid`, `file-unreadable`, `store-in-use`, `store-damaged`.
 */
export async function startAuthority(
  config: Config,
  nowMs: () => number,
  log: Log,
  onBroken?: (fault: unknown) => void,
): Promise<Result<Authority>> {
  const tls = readTls(config.listen);
  if (!tls.ok) return tls;
  const opened = await openParts(config, onBroken);
  if (!opened.ok) return opened;
  const { signer, bundle, store } = opened.value;
  const damage = await tailProblem(opened.value);
  if (damage !== null) {
    await store.close();
    return refuse(rejection('store-damaged', { store: storeName(config), reason: damage.replace(/\.$/, '') }));
  }
  const loaded = await loadProgrammes(await programmeFiles(config));
  const refused: Rejection | null = loaded.ok ? await adoptProgrammes(store, loaded.value) : loaded.rejection;
  if (!loaded.ok || refused !== null) {
    await store.close();
    return refuse(refused ?? rejection('config-invalid', { file: 'programmes', reason: 'they cannot be read' }));
  }
  const programmes = loaded.value;
  const settler = new Settler({ store, programmes, tariffs: shippedTariffs(), signer, nowMs, log });
  // Nothing is granted before the server has said up to which cursor it has booked: an authority that was restored would give those again.
  let isTold = false;
  const settleIfTold = (): void => {
    if (isTold) settler.wake();
  };
  const roles = trustedKeys(bundle);
  const http = await authorityHttp({
    credential: config.credential,
    store,
    programmes,
    log,
    ...(tls.value === null ? {} : { tls: tls.value }),
    takeIn: async (delivery) => {
      const answers = await takeIn(delivery, { store, roles, nowMs, log });
      isTold ||= delivery.grantsCursor !== undefined;
      settleIfTold();
      return answers;
    },
    takeInEvidence: async (evidence) => {
      const answers = await takeInEvidence(evidence, { store, roles, nowMs, log });
      settleIfTold();
      return answers;
    },
    grantsAreBooked: async (cursor) => {
      if (isTold) return;
      await store.continueGrants(cursor);
      isTold = true;
      settler.wake();
    },
    evaluatedThrough: async () => {
      const states = await store.programmes();
      const running = programmes.map((programme) =>
        states.find(({ id, version }) => id === programme.id && version === programme.version),
      );
      return Math.min((await store.positions()).rolled, ...running.map((state) => state?.evaluated ?? 0));
    },
  });
  const url = await http.listen({ host: config.listen.host, port: config.listen.port });
  return accept({
    url,
    grantingKey: signer.keys({ holder: 'granting', epoch: 1 })?.publicKey ?? signer.publicKey,
    close: async () => {
      await http.close();
      await settler.close();
      await store.close();
    },
  });
}

export type AuthorityParts = {
  readonly signer: GrantSigner;
  readonly bundle: TrustBundle;
  readonly store: AuthorityStore;
};

/** The file of the grant key. */
export function grantKeyPath(config: Pick<Config, 'data'>): string {
  return join(config.data, 'grant-key.pkcs8');
}

/** Key, trust bundle and store; the caller closes the store. Rejections: `config-invalid`, `store-in-use`, `store-damaged`. */
export async function openParts(config: Config, onBroken?: (fault: unknown) => void): Promise<Result<AuthorityParts>> {
  await mkdir(config.data, { recursive: true, mode: 0o700 });
  const signer = await openSoftwareGrantKey(grantKeyPath(config));
  if (!signer.ok) return signer;
  const bundle = await readBundle(config.trustBundle);
  if (!bundle.ok) return bundle;
  const strange = bundle.value.keys.some(({ role, epoch, publicKey }) => {
    const own = role === 'granting' ? signer.value.keys({ holder: role, epoch }) : null;
    return own !== null && !sameBytes(own.publicKey, publicKey);
  });
  if (strange) {
    const reason = 'it names another granting key than the one in the data folder of the authority';
    return refuse(rejection('config-invalid', { file: config.trustBundle, reason }));
  }
  try {
    return accept({
      signer: signer.value,
      bundle: bundle.value,
      store: await openAuthorityStore(config.database, onBroken),
    });
  } catch (error) {
    // Not worth a restart: the catalogue's exit codes say so to the supervisor.
    const code = errorCode(error);
    if (code === 'database-in-use') return refuse(rejection('store-in-use', { store: storeName(config) }));
    if (code === 'database-damaged' || code === 'database-migrations') {
      return refuse(rejection('store-damaged', { store: storeName(config), reason: errorText(error) }));
    }
    throw error;
  }
}

/** The store for people, without the password that its URL may carry. */
function storeName({ database }: Config): string {
  const { protocol, host, pathname } = new URL(database);
  return `${protocol}//${host}${pathname}`;
}

async function readBundle(path: string): Promise<Result<TrustBundle>> {
  try {
    return parseTrustBundle(await readFile(path, 'utf8'));
  } catch (error) {
    return refuse(rejection('config-invalid', { file: path, reason: errorText(error) }));
  }
}
