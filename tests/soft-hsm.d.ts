import type { HsmConfig } from '@countermark/cryptographic-device/hsm-keys';
/** Tokens in one folder, which is gone at the end. */
export interface SoftHsm {
  /** What the module has to find in its environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly pin: string;
  /** A token of that label, which there is. */
  of(label: string): HsmConfig;
  /** A further token; a module that was initialised before does not see it. */
  add(label: string): HsmConfig;
  /** Another file with another PIN. */
  withPin(label: string, pin: string): HsmConfig;
  /** Takes the tokens away, as when the device is unplugged, and brings them back. */
  unplug(): void;
  plug(): void;
  stop(): void;
}
/** Makes empty tokens with these labels, or says why there can be none. This process, and those that it starts, find them. */
export declare function softHsm(...labels: readonly string[]): SoftHsm | string;
