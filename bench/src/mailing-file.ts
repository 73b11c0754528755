/**
 * Mailings for benchmarks: CSV files of any length that look like a bureau's.
 *
 * Guarantees: the same rows at every run; memory does not grow with the rows; every row has its own piece_ref, quotes and
 * accents included; letters and flats of several customers, each group above its minimum where the file has 20,000 rows or more.
 * The rows of the customers stand mixed, as a bureau's come.
 */
import { createWriteStream } from 'node:fs';
import { once } from 'node:events';

/** Who is in the file. */
export const CUSTOMERS = ['alder-press', 'birch-mutual', 'cedar-clinic', 'dogwood-water'] as const;

const HEADER = 'piece_ref,customer,product,level,weight_oz,name,address,city,state,zip\n';

/** Product, level, weights, and a place with its ZIP Codes. */
const KINDS = [
  ['usps-fcm-letter', '5-digit', ['0.8', '1', '1.35'], 'Cambridge', 'MA', ['02139']],
  ['usps-fcm-letter', '5-digit', ['0.95', '2.0'], 'Chicago', 'IL', ['60614']],
  ['usps-fcm-letter', 'aadc', ['0.8', '1.0', '1.01'], 'Boston', 'MA', ['02108', '02109', '02110', '02111']],
  ['usps-fcm-letter', 'mixed-aadc', ['0.9', '1.9'], 'Seattle', 'WA', ['98101', '98104', '98109']],
  ['usps-fcm-flat', '5-digit', ['2.4', '3', '3.5'], 'New York', 'NY', ['10001']],
  ['usps-fcm-flat', '3-digit', ['2.75', '4.0'], 'Denver', 'CO', ['80202', '80203', '80204']],
] as const;

const NAMES = [
  'Ada Brackamere',
  'Chloé Wendmond',
  '"Pennywhistle & Daughters, Inc."',
  'Jonas Ivorgarth',
  'Søren Pellquist',
];
const STREETS = ['Tinderbox Ln', 'Lower Thimble St', 'Cobalt Kettle Rd', 'Old Ferrule Way', 'Marzipan Ct'];
const ROWS_AT_ONCE = 2_000;

/** Writes a mailing of that many rows. `series` makes its references, and so its content, another mailing's. */
export async function writeMailing(path: string, rows: number, series = 'a'): Promise<void> {
  const out = createWriteStream(path);
  out.write(HEADER);
  for (let first = 0; first < rows; first += ROWS_AT_ONCE) {
    let text = '';
    for (let index = first; index < Math.min(rows, first + ROWS_AT_ONCE); index += 1) text += rowOf(index, series);
    if (!out.write(text)) await once(out, 'drain');
  }
  out.end();
  await once(out, 'finish');
}

function rowOf(index: number, series: string): string {
  const customer = at(CUSTOMERS, index);
  const turn = Math.floor(index / CUSTOMERS.length);
  const [product, level, weights, city, state, zips] = at(KINDS, turn);
  const round = Math.floor(turn / KINDS.length);
  const address = `${1 + (index % 989)} ${at(STREETS, index)}`;
  return `${series}-${String(index + 1).padStart(8, '0')},${customer},${product},${level},${at(weights, round)},${at(NAMES, index)},${address},${city},${state},${at(zips, round)}\n`;
}

/** The entry at a place of a list that goes round. */
function at<T>(list: readonly T[], index: number): T {
  return list[index % list.length] as T;
}
