/**
 * What each of the five processes is told: the JSON configs that the supervisor writes to DIR/run/PARTY.json.
 *
 * Pure: paths, settings, ports and credentials in; configs out. Each party's main parses its own strictly.
 */
import type { InstallationPaths } from './installation-paths.ts';
import { listeningBy, type Settings } from './configuration.ts';

/** Shared secrets of the local installation; 32 random bytes in hex each. */
export type Credentials = {
  /** Of the server's operator: registers licensees, books deposits. */
  readonly operator: string;
  /** Of a second person at the server: what needs two is not done by one. */
  readonly secondOperator?: string;
  /** With which the server delivers to the authority. */
  readonly delivery: string;
  /** The licensee's, issued by the server; absent before it is registered. */
  readonly licensee?: string;
};

/** The operators of the local installation by name. */
export const OPERATORS: Readonly<Record<string, 'operator' | 'secondOperator'>> = {
  operator: 'operator',
  'second-operator': 'secondOperator',
};

/** The settings of the network. */
type Network = Pick<Settings, 'database' | 'listen' | 'certificate' | 'certificateKey'>;

export type Ports = { readonly server: number; readonly authority: number };

/** The cryptographic device's config. */
export function cryptographicDeviceConfig(
  paths: InstallationPaths,
  { pkcs11Module, pkcs11Token, pkcs11PinFile, highestGrant, highestDaily }: Settings,
): object {
  return {
    data: paths.parties['cryptographic-device'],
    socket: paths.sockets.cryptographicDevice,
    sessionSocket: paths.sockets.cryptographicDeviceSession,
    acceptanceSocket: paths.sockets.serverAcceptance,
    funds: { highestGrantMills: String(highestGrant), highestDailyMills: String(highestDaily) },
    ...(pkcs11Module === undefined
      ? {}
      : { hsm: { module: pkcs11Module, token: pkcs11Token, pinFile: pkcs11PinFile } }),
  };
}

/** The authority's config; `trustBundle` may lack the authority's own key. */
export function authorityConfig(
  paths: InstallationPaths,
  settings: Network,
  ports: Ports,
  credentials: Credentials,
  trustBundle: string,
): object {
  return {
    data: paths.parties.authority,
    ...(settings.database === undefined ? {} : { database: settings.database }),
    listen: listeningBy(settings, ports.authority),
    trustBundle,
    credential: credentials.delivery,
  };
}

/** The server's config. */
export function serverConfig(
  paths: InstallationPaths,
  settings: Network,
  ports: Ports,
  credentials: Credentials,
): object {
  return {
    data: paths.parties.server,
    ...(settings.database === undefined ? {} : { database: settings.database }),
    listen: listeningBy(settings, ports.server),
    trustBundle: paths.trustBundle,
    cdSocket: paths.sockets.cryptographicDevice,
    cdSessionSocket: paths.sockets.cryptographicDeviceSession,
    acceptanceSocket: paths.sockets.serverAcceptance,
    authority: { url: urlOf(settings, ports.authority), credential: credentials.delivery },
    operatorCredential: credentials.operator,
    ...(credentials.secondOperator === undefined
      ? {}
      : { operators: [{ name: 'second-operator', credential: credentials.secondOperator }] }),
  };
}

/** The PSD's config. */
export function psdConfig(
  paths: InstallationPaths,
  settings: Pick<
    Settings,
    'authentication' | 'records' | 'recordCapacity' | 'psdPkcs11Module' | 'psdPkcs11Token' | 'psdPkcs11PinFile'
  >,
): object {
  const { psdPkcs11Module: module, psdPkcs11Token: token, psdPkcs11PinFile: pinFile } = settings;
  return {
    data: paths.parties.psd,
    socket: paths.sockets.psd,
    sessionSocket: paths.sockets.psdSession,
    trustBundle: paths.trustBundle,
    authentication: settings.authentication,
    memory: settings.records,
    recordCapacity: settings.recordCapacity,
    ...(module === undefined ? {} : { hsm: { module, token, pinFile } }),
  };
}

/** The host's config. */
export function hostConfig(
  paths: InstallationPaths,
  settings: Settings,
  server: { readonly url: string; readonly credential: string },
): object {
  return {
    data: paths.parties.host,
    socket: paths.sockets.host,
    psdSocket: paths.sockets.psd,
    psdSessionSocket: paths.sockets.psdSession,
    server,
    trustBundle: paths.trustBundle,
    licensee: settings.licensee,
    customers: settings.customers,
    transport: settings.transport,
    forwarding: settings.forwarding,
    holdForMs: settings.holdFor,
    submitter: settings.submitter,
    preparer: settings.preparer,
    sheet: settings.sheet,
    pages: settings.pages,
    output: paths.output,
    refillBelowMills: settings.refillBelow.toString(),
    refillToMills: settings.refillTo.toString(),
    // The demonstration's: customers that a mailing names are registered by themselves.
    registerCustomers: true,
  };
}

/** The URL of a party that listens there. */
export function urlOf(settings: Network, port: number): string {
  const { listen } = settings;
  return `${listeningBy(settings, port).tls === undefined ? 'http' : 'https'}://${listen.includes(':') ? `[${listen}]` : listen}:${port}`;
}
