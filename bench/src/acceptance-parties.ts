/**
 * A real server and a real cryptographic device, built, as processes in a folder of their own, with no authority to deliver to.
 *
 * For benchmarks and for tests of processes; the product starts its parties by `countermark up`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import { connectRpc } from '@countermark/node-platform/rpc';
import { generateSigningKey, publicKeyBytes } from '@countermark/node-platform/signing';
import { WIDE_YOUNG_GENERATION } from '@countermark/node-platform/young-generation';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { parseValue } from '@countermark/protocol/schema';
import { formatTrustBundle, type TrustBundle } from '@countermark/verify/trust-bundle';
import { ROOT } from './scratch-folder.ts';

export type AcceptanceParties = {
  readonly url: string;
  readonly operatorCredential: string;
  readonly bundle: TrustBundle;
  /** Process ids, for measuring memory. */
  readonly pids: { readonly server: number; readonly cryptographicDevice: number };
  stop(): Promise<void>;
};

/** Starts both; `database` as in the server's configuration, `hsm` as in the device's. Logs go to files in the folder. */
export async function startAcceptanceParties(
  folder: string,
  { database, hsm }: { readonly database?: string; readonly hsm?: HsmConfig } = {},
): Promise<AcceptanceParties> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const at = (name: string): string => join(folder, name);
  const operatorCredential = randomBytes(32).toString('hex');
  const cryptographicDevice = await start('cryptographic-device', folder, {
    data: at('cd'),
    socket: at('cd.sock'),
    sessionSocket: at('cds.sock'),
    acceptanceSocket: at('acc.sock'),
    ...(hsm === undefined ? {} : { hsm }),
  });
  const bundle = await trustBundle(at('cd.sock'));
  writeFileSync(at('trust-bundle.json'), formatTrustBundle(bundle));
  const server = await start('server', folder, {
    data: at('server'),
    ...(database === undefined ? {} : { database }),
    listen: { host: '127.0.0.1', port: 0 },
    trustBundle: at('trust-bundle.json'),
    cdSocket: at('cd.sock'),
    cdSessionSocket: at('cds.sock'),
    acceptanceSocket: at('acc.sock'),
    authority: { url: 'http://127.0.0.1:9/', credential: randomBytes(32).toString('hex') },
    operatorCredential,
  });
  return {
    url: String(server.ready['url']),
    operatorCredential,
    bundle,
    pids: { server: server.process.pid ?? 0, cryptographicDevice: cryptographicDevice.process.pid ?? 0 },
    stop: async () => {
      for (const { process: child } of [server, cryptographicDevice]) {
        if (child.exitCode !== null) continue;
        const ended = once(child, 'exit');
        child.stdin?.end();
        await ended;
      }
    },
  };
}

type Started = { readonly process: ChildProcess; readonly ready: Readonly<Record<string, unknown>> };

async function start(party: string, folder: string, config: object): Promise<Started> {
  const file = join(folder, `${party}.json`);
  writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
  const main = join(ROOT, 'packages', party, 'dist', 'program', 'main.js');
  const logFile = join(folder, `${party}.log`);
  const log = openSync(logFile, 'a');
  // As `countermark up` starts both.
  const args = [...WIDE_YOUNG_GENERATION, main, 'serve', '--config', file];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', log] });
  if (child.stdout === null) throw new Error('The process has no pipe.');
  for await (const line of createInterface({ input: child.stdout })) {
    return { process: child, ready: JSON.parse(line) as Record<string, unknown> };
  }
  throw new Error(`${party} ended before it was ready:\n${readFileSync(logFile, 'utf8').slice(-4_000)}`);
}

async function trustBundle(socket: string): Promise<TrustBundle> {
  const rpc = await connectRpc(socket);
  const { publicKeys } = CRYPTOGRAPHIC_DEVICE;
  const answer = await rpc.call(publicKeys.name, publicKeys.request.toCbor({}));
  rpc.close();
  const parsed = answer.ok ? parseValue(publicKeys.answer, answer.value) : answer;
  if (!parsed.ok) throw new Error(parsed.rejection.code);
  const granting = publicKeyBytes(generateSigningKey().publicKey);
  const { keys, agreementKey, sessionAuthority } = parsed.value;
  return { keys: [...keys, { role: 'granting', epoch: 1, publicKey: granting }], agreementKey, sessionAuthority };
}
