/**
 * Targets by name, each with its part of a run's inputs, for who starts runs: the targets themselves load only in the
 * instrumented bundle. shares.test.ts holds both lists equal.
 */
export const SHARES: Readonly<Record<string, number>> = {
  cbor: 20,
  envelope: 12,
  messages: 14,
  interfaces: 12,
  frames: 10,
  rpc: 6,
  indicium: 8,
  'piece-record': 6,
  'trust-bundle': 6,
  authentic: 4,
  chain: 6,
  tariff: 4,
  programme: 4,
  config: 6,
  texts: 8,
  'host-api': 6,
  mailing: 1,
  staging: 0.2,
  psd: 0.6,
  'cryptographic-device': 0.4,
  'server-http': 0.6,
  'authority-http': 0.6,
};
