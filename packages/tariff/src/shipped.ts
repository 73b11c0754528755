/**
 * The tariffs that come with the product.
 *
 * Guarantees: each has passed the same strict parser as a file would, and its exact bytes are kept beside it: the tariff
 * digest of a declaration is SHA-256 over `bytes`, computed by who has a hash. A digest that no tariff here has is an
 * unknown tariff; nothing falls back to another.
 */
import { utf8 } from '@countermark/protocol/bytes';
import { parseTariff, type Tariff } from './tariff.ts';
import { USPS_2025_07_13 } from './usps-2025-07-13.ts';

export type ShippedTariff = { readonly tariff: Tariff; readonly bytes: Uint8Array };

export const SHIPPED_TARIFFS: readonly ShippedTariff[] = [USPS_2025_07_13].map(ship);

/** The tariff with this id (`usps-2025-07-13`), or undefined. */
export function shippedTariff(id: string): ShippedTariff | undefined {
  return SHIPPED_TARIFFS.find(({ tariff }) => tariff.id === id);
}

function ship(text: string): ShippedTariff {
  const bytes = utf8(text);
  const parsed = parseTariff(bytes);
  if (!parsed.ok) throw new Error(`A shipped tariff is broken: ${parsed.path} ${parsed.problem}.`);
  return { tariff: parsed.tariff, bytes };
}
