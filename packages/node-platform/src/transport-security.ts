/**
 * TLS for everything that leaves this machine: what a configuration may listen on and call, and the files with which it listens.
 *
 * Guarantees: an address that is not of the loopback is listened on with a certificate only, or where the configuration says in so many
 * words that something in front of it ends TLS; URLs to other machines are `https://`, those of databases ask for an encrypted
 * connection. Decided by the address as it is written: no name is resolved. Does not look into certificates: the two ends do.
 */
import { readFileSync } from 'node:fs';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { errorText } from './fault.ts';

/** PEM files: the certificate, with the chain above it, and its key. */
export type TlsFiles = { readonly certFile: string; readonly keyFile: string };

/** Where a party listens. `in-front`: TLS ends in front of it, and the way from there to here is private. */
export type Listening = { readonly host: string; readonly port: number; readonly tls?: TlsFiles | 'in-front' };

/** What is read of the files; for `node:https`. */
export type TlsMaterial = { readonly cert: Buffer; readonly key: Buffer; readonly minVersion: 'TLSv1.3' };

/** Whether the address, as it is written, is this machine itself. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/i.test(host);
}

/** Parses `listen`; null where it has not this form. */
export function listeningOf(given: unknown): Listening | null {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return null;
  const { host, port, tls, ...others } = given as Readonly<Record<string, unknown>>;
  if (Object.keys(others).length > 0 || typeof host !== 'string' || host === '') return null;
  if (typeof port !== 'number' || !Number.isInteger(port) || port < 0 || port > 65_535) return null;
  if (tls === undefined) return { host, port };
  if (tls === 'in-front') return { host, port, tls };
  if (typeof tls !== 'object' || tls === null || Array.isArray(tls)) return null;
  const { certFile, keyFile, ...more } = tls as Readonly<Record<string, unknown>>;
  const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
  return isText(certFile) && isText(keyFile) && Object.keys(more).length === 0
    ? { host, port, tls: { certFile, keyFile } }
    : null;
}

/** Why this must not be listened on, or null. */
export function unsafeListening({ host, port, tls }: Listening): Rejection | null {
  return tls !== undefined || isLoopback(host)
    ? null
    : rejection('insecure-address', { what: 'The address to listen on', address: `${host}:${port}` });
}

/** Why this must not be called, or null. `what` begins the sentence; of the URL only the host is said, because it may hold a password. */
export function unsafeUrl(url: string, what: string): Rejection | null {
  if (!URL.canParse(url)) return null;
  const { protocol, hostname, port, searchParams } = new URL(url);
  const isDatabase = /^postgres(ql)?:$/.test(protocol);
  if (!isDatabase && protocol !== 'http:') return null;
  // What a database's driver takes for the host; an empty one and a path are sockets of this machine.
  const host = isDatabase ? (searchParams.get('host') ?? hostname) : hostname;
  if (isLoopback(host) || (isDatabase && (host === '' || host.startsWith('/')))) return null;
  const isEncrypted = isDatabase && /^(require|verify-ca|verify-full)$/.test(searchParams.get('sslmode') ?? '');
  return isEncrypted ? null : rejection('insecure-address', { what, address: port === '' ? host : `${host}:${port}` });
}

/** Reads the files, where TLS is listened with. Rejection: `file-unreadable`. */
export function readTls({ tls }: Listening): Result<TlsMaterial | null> {
  if (tls === undefined || tls === 'in-front') return accept(null);
  const read = (file: string): Result<Buffer> => {
    try {
      return accept(readFileSync(file));
    } catch (error) {
      return refuse(rejection('file-unreadable', { file, reason: errorText(error) }));
    }
  };
  const cert = read(tls.certFile);
  if (!cert.ok) return cert;
  const key = read(tls.keyFile);
  return key.ok ? accept({ cert: cert.value, key: key.value, minVersion: 'TLSv1.3' }) : key;
}
