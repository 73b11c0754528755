/**
 * What belongs into a backup of an installation, and what never does: the list that `countermark status` shows and docs/backup.md
 * explains (a test holds the two together).
 */
import { join } from 'node:path';
import type { InstallationPaths } from './installation-paths.ts';

/** A folder, file or database, and what would be lost with it. */
export type BackupEntry = { readonly path: string; readonly why: string };

/** Everything that is to be kept, the parties first. */
export function backupList(
  paths: InstallationPaths,
  { database, pkcs11Token }: { readonly database?: string | undefined; readonly pkcs11Token?: string | undefined },
): readonly BackupEntry[] {
  const { parties } = paths;
  const stores =
    database?.startsWith('postgres') === true
      ? [
          {
            path: withoutPassword(database),
            why: 'the schemas countermark_server (registry, log, ledger) and countermark_authority (records, grants)',
          },
          { path: join(parties.authority, 'grant-key.pkcs8'), why: "the authority's granting key: a secret" },
          {
            path: join(parties.authority, 'grant-key.pkcs8.certificates'),
            why: 'the certificates of the granting keys after the first, once there are any',
          },
        ]
      : [
          { path: parties.server, why: "the server's registry, log and ledger" },
          { path: parties.authority, why: "the authority's records, grants and granting key: a secret" },
        ];
  return [
    { path: parties.host, why: 'the host’s store: piece records, archived records, confirmations and grants' },
    { path: paths.output, why: 'the jobs’ files: indicia, merge files, records' },
    ...stores,
    {
      path: parties['cryptographic-device'],
      why:
        pkcs11Token === undefined
          ? "the cryptographic device's keys and register: secrets"
          : `the cryptographic device's register; its keys are on the token ${pkcs11Token}, which has a backup of its own`,
    },
    { path: paths.trustBundle, why: 'the public keys on which every check stands' },
    { path: paths.credentials, why: 'credentials between the parties: secrets' },
    { path: paths.settings, why: 'the settings' },
    { path: paths.marker, why: 'says that the folder is an installation of Countermark' },
  ];
}

/** Why the device's store is in no backup. */
export const NEVER_BACK_UP =
  'a restored copy of a device is a second device with the same numbers, and its records a fork.';

function withoutPassword(url: string): string {
  return url.replace(/\/\/([^:@/]+):[^@/]*@/, '//$1@');
}
