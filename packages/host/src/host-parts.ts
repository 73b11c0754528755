/**
 * What a host is put together from. Each desk takes of it what it needs.
 */
import type { Clock } from '@countermark/node-platform/clock';
import type { Log } from '@countermark/node-platform/logs';
import type { ShippedTariff } from '@countermark/tariff/shipped';
import type { KeySource } from '@countermark/verify/verified';
import type { HostConfig } from './config.ts';
import type { Journal } from './journal.ts';
import type { PrintPort } from './print-port.ts';
import type { PsdClient } from './psd-client.ts';
import type { ServerClient } from './server-client.ts';

export type HostParts = {
  readonly config: HostConfig;
  readonly journal: Journal;
  readonly psd: PsdClient;
  readonly server: ServerClient;
  readonly keys: KeySource;
  /** Decides when holds end, and dates what is franked. */
  readonly clock: Clock;
  readonly random: () => number;
  readonly printer: PrintPort;
  readonly log: Log;
};

/** The same, with the tariff that the configuration names. */
export type RatedParts = HostParts & { readonly tariff: ShippedTariff };
