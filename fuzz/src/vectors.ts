/** The published vectors of the protocol (docs/protocol/vectors), as inputs to begin with and as genuine messages. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './root.ts';

type Vectors = { readonly vectors: readonly { readonly check: string; readonly input: readonly string[] }[] };

export function vectorText(name: string): string {
  return readFileSync(join(ROOT, 'docs/protocol/vectors', name), 'utf8');
}

function document(name: string): unknown {
  return JSON.parse(vectorText(name));
}

export function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, 'hex'));
}

/** Inputs of the vectors that must be accepted; `check` says how. */
export function acceptedVectors(): readonly { readonly check: string; readonly input: readonly Uint8Array[] }[] {
  return inputsOf('accepted.json');
}

/** Inputs of the vectors that must be refused. Those that are too long to be printed are left out. */
export function rejectedVectors(): readonly { readonly check: string; readonly input: readonly Uint8Array[] }[] {
  return inputsOf('rejected.json');
}

function inputsOf(name: string) {
  return (document(name) as Vectors).vectors
    .filter(({ input }) => input.every((text) => /^[0-9a-f]*$/.test(text)))
    .map(({ check, input }) => ({ check, input: input.map(bytesOf) }));
}

export function deviceCertificates(): readonly Uint8Array[] {
  return (document('device-certificates.json') as { certificates: readonly string[] }).certificates.map(bytesOf);
}

export function macKeys(): unknown {
  return document('mac-keys.json');
}

/** Payloads of indicium symbols. */
export function indicia(): unknown {
  return document('indicia.json');
}
