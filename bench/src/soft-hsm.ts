/**
 * A token for tests and benchmarks: SoftHSM2 (Debian's `softhsm2`), with its objects in a temporary folder. Where it is not installed, what needs it is
 * skipped, and says so.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';

const MODULES = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
];
const PIN = '271828';
const OFFICER_PIN = '31415926';

/** Tokens in one folder, which is gone at the end. */
export type SoftHsm = {
  /** What the module has to find in its environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly pin: string;
  /** A token of that label, which there is. */
  readonly of: (label: string) => HsmConfig;
  /** A further token; a module that was initialised before does not see it. */
  readonly add: (label: string) => HsmConfig;
  /** Another file with another PIN. */
  readonly withPin: (label: string, pin: string) => HsmConfig;
  /** Takes the tokens away, as when the device is unplugged, and brings them back. */
  readonly unplug: () => void;
  readonly plug: () => void;
  readonly stop: () => void;
};

/** Makes empty tokens with these labels, or says why there can be none. This process, and those that it starts, find them. */
export function softHsm(...labels: readonly string[]): SoftHsm | string {
  const module = MODULES.find((path) => existsSync(path));
  const folder = mkdtempSync(join(tmpdir(), 'soft-hsm-'));
  const [tokens, away] = [join(folder, 'tokens'), join(folder, 'away')];
  const configuration = join(folder, 'softhsm2.conf');
  mkdirSync(tokens);
  writeFileSync(configuration, `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\n`);
  const environment = { SOFTHSM2_CONF: configuration };
  const initialise = (label: string): void => {
    execFileSync('softhsm2-util', ['--init-token', '--free', '--label', label, '--pin', PIN, '--so-pin', OFFICER_PIN], {
      env: { ...process.env, ...environment },
      stdio: 'pipe',
    });
  };
  try {
    if (module === undefined) throw new Error('its module is not installed (softhsm2)');
    for (const label of labels) initialise(label);
  } catch (error) {
    rmSync(folder, { recursive: true });
    const reason = `no SoftHSM2 for tests: ${error instanceof Error ? error.message : String(error)}`;
    process.stderr.write(`SKIPPED: ${reason}\n`);
    return reason;
  }
  Object.assign(process.env, environment);
  const withPin = (label: string, pin: string): HsmConfig => {
    const pinFile = join(folder, `${label}-${pin}.pin`);
    writeFileSync(pinFile, `${pin}\n`, { mode: 0o600 });
    return { module, token: label, pinFile };
  };
  return {
    environment,
    pin: PIN,
    of: (label) => withPin(label, PIN),
    add: (label) => {
      initialise(label);
      return withPin(label, PIN);
    },
    withPin,
    unplug: () => {
      renameSync(tokens, away);
    },
    plug: () => {
      renameSync(away, tokens);
    },
    stop: () => {
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
