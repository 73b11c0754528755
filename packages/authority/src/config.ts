/**
 * The authority's configuration, as the supervisor writes it: parsed strictly, unknown settings are refused.
 */
import { isAbsolute, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Listening, listeningOf, unsafeListening, unsafeUrl } from '@countermark/node-platform/transport-security';
import { databaseKind } from '@countermark/sql/database';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';

export type Config = {
  /** The authority's folder: its grant key, and its store where that is SQLite. */
  readonly data: string;
  /** `sqlite:///...` or `postgres://...`. */
  readonly database: string;
  readonly listen: Listening;
  /** Path of the trust bundle; it may lack the authority's own key. */
  readonly trustBundle: string;
  /** With which the server delivers: 32 bytes in hex. */
  readonly credential: string;
  /** Paths of programme files; absent: those that come with the product. */
  readonly programmes?: readonly string[];
};

/** Rejections: `config-invalid`, `insecure-address`. */
export function parseConfig(json: unknown): Result<Config> {
  const invalid = (reason: string) => refuse(rejection('config-invalid', { file: 'of the authority', reason }));
  if (!isObject(json)) return invalid('it is not an object');
  const { data, database, listen, trustBundle, credential, programmes, ...unknown } = json;
  const [stranger] = Object.keys(unknown);
  if (stranger !== undefined) return invalid(`the setting ${stranger} is unknown`);
  if (typeof data !== 'string' || !isAbsolute(data)) return invalid('data is no absolute path');
  if (typeof trustBundle !== 'string' || trustBundle === '') return invalid('trustBundle is no path');
  if (typeof credential !== 'string' || !/^[0-9a-f]{64}$/.test(credential)) {
    return invalid('credential is not 32 bytes in hex');
  }
  const listening = listeningOf(listen);
  if (listening === null) return invalid('listen is not {host, port}, with or without tls {certFile, keyFile}');
  const exposed = unsafeListening(listening);
  if (exposed !== null) return refuse(exposed);
  const url = database ?? defaultDatabase(data);
  if (!isDatabaseUrl(url)) return invalid('database is neither sqlite:///... nor postgres://...');
  const plain = unsafeUrl(url, 'The database');
  if (plain !== null) return refuse(plain);
  const files: unknown = programmes ?? [];
  if (!Array.isArray(files) || !files.every((file: unknown): file is string => typeof file === 'string')) {
    return invalid('programmes is no list of paths');
  }
  return accept({
    data,
    database: url,
    listen: listening,
    trustBundle,
    credential,
    ...(programmes === undefined ? {} : { programmes: files }),
  });
}

function defaultDatabase(data: string): string {
  return `sqlite://${pathToFileURL(join(data, 'authority.db')).pathname}`;
}

function isDatabaseUrl(url: unknown): url is string {
  if (typeof url !== 'string') return false;
  try {
    databaseKind(url);
    return true;
  } catch {
    return false;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
