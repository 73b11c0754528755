// Writes bureau-mailing.csv: one evening's mailing of a made-up bureau for three made-up customers. Deterministic: the
// same bytes at every run (a seeded generator, no clock), so that expected.json stays true. `generateMailing` is also
// called by packages/tariff/src/sample.test.ts. People, companies and streets are invented; cities and ZIP Codes are real.
//
// What the plan below guarantees (and the test checks): 500 presorted pieces or more of each product of a customer, 150
// or more in each 5-digit group, prefixes of DMM L601, and postings of 749, 750 and 1,200 pieces, so that the steps of
// the discount at 750 and 1,000 pieces are met from both sides.
import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const BOSTON = ['Boston', 'MA', ['02108', '02109', '02110', '02111', '02113', '02114', '02115', '02116', '02118']];
const CAMBRIDGE = ['Cambridge', 'MA', ['02139']];
const CHICAGO_ONE = ['Chicago', 'IL', ['60614']];
const CHICAGO = ['Chicago', 'IL', ['60601', '60602', '60603', '60605', '60606', '60607', '60610', '60611']];
const SEATTLE_ONE = ['Seattle', 'WA', ['98101']];
const PORTLAND_ONE = ['Portland', 'OR', ['97201']];
const DENVER = ['Denver', 'CO', ['80202', '80203', '80204', '80205', '80206']];
const NEW_YORK_ONE = ['New York', 'NY', ['10001']];
const PHILADELPHIA = ['Philadelphia', 'PA', ['19102', '19103', '19104', '19106', '19107']];
const HOUSTON = ['Houston', 'TX', ['77002', '77003', '77004', '77006', '77007']];
const ATLANTA_ONE = ['Atlanta', 'GA', ['30303']];
const SAN_FRANCISCO = ['San Francisco', 'CA', ['94102', '94103', '94107', '94108', '94109', '94110']];

/** Everywhere else, for the mixed levels. */
const ELSEWHERE = [
  ['San Juan', 'PR', ['00901']],
  ['Portland', 'ME', ['04101']],
  ['Manchester', 'NH', ['03101']],
  ['Burlington', 'VT', ['05401']],
  ['Providence', 'RI', ['02903']],
  ['Hartford', 'CT', ['06103']],
  ['Newark', 'NJ', ['07102']],
  ['Albany', 'NY', ['12207']],
  ['Pittsburgh', 'PA', ['15222']],
  ['Wilmington', 'DE', ['19801']],
  ['Washington', 'DC', ['20001']],
  ['Baltimore', 'MD', ['21201']],
  ['Richmond', 'VA', ['23219']],
  ['Raleigh', 'NC', ['27601']],
  ['Charleston', 'SC', ['29401']],
  ['Birmingham', 'AL', ['35203']],
  ['Nashville', 'TN', ['37203']],
  ['Louisville', 'KY', ['40202']],
  ['Columbus', 'OH', ['43215']],
  ['Indianapolis', 'IN', ['46204']],
  ['Detroit', 'MI', ['48226']],
  ['Des Moines', 'IA', ['50309']],
  ['Milwaukee', 'WI', ['53202']],
  ['Minneapolis', 'MN', ['55401']],
  ['Fargo', 'ND', ['58102']],
  ['Kansas City', 'MO', ['64106']],
  ['Omaha', 'NE', ['68102']],
  ['New Orleans', 'LA', ['70112']],
  ['Little Rock', 'AR', ['72201']],
  ['Oklahoma City', 'OK', ['73102']],
  ['Boise', 'ID', ['83702']],
  ['Salt Lake City', 'UT', ['84101']],
  ['Phoenix', 'AZ', ['85004']],
  ['Albuquerque', 'NM', ['87102']],
  ['Las Vegas', 'NV', ['89101']],
  ['San Diego', 'CA', ['92101']],
  ['Honolulu', 'HI', ['96813']],
  ['Anchorage', 'AK', ['99501']],
];

/** Weights in ounces; the bound of a step itself is among them, because it belongs to the step below. */
const LETTERS_1 = ['0.8', '0.95', '1', '1.0'];
const LETTERS_2 = ['1.01', '1.35', '2.0'];
const FLATS_3 = ['2.4', '2.75', '3', '3.00'];
const FLATS_4 = ['3.01', '3.5', '4.0'];

/** customer, product, level, places, pieces in the lower and in the higher weight step. */
const PLAN = [
  ['alder-press', 'usps-fcm-letter', '5-digit', [CAMBRIDGE], 150, 30],
  ['alder-press', 'usps-fcm-letter', '5-digit', [CHICAGO_ONE], 160, 0],
  ['alder-press', 'usps-fcm-letter', 'aadc', [BOSTON], 175, 35],
  ['alder-press', 'usps-fcm-letter', 'mixed-aadc', ELSEWHERE, 160, 39],
  ['birch-mutual', 'usps-fcm-letter', '5-digit', [SEATTLE_ONE], 155, 0],
  ['birch-mutual', 'usps-fcm-letter', '5-digit', [PORTLAND_ONE], 120, 50],
  ['birch-mutual', 'usps-fcm-letter', 'aadc', [DENVER], 165, 0],
  ['birch-mutual', 'usps-fcm-letter', 'mixed-aadc', ELSEWHERE, 110, 40],
  ['birch-mutual', 'usps-fcm-flat', '5-digit', [NEW_YORK_ONE], 90, 70],
  ['birch-mutual', 'usps-fcm-flat', '3-digit', [PHILADELPHIA], 100, 70],
  ['birch-mutual', 'usps-fcm-flat', 'adc', [HOUSTON], 75, 45],
  ['birch-mutual', 'usps-fcm-flat', 'mixed-adc', ELSEWHERE, 65, 45],
  ['cedar-clinic', 'usps-fcm-flat', '5-digit', [ATLANTA_ONE], 190, 0],
  ['cedar-clinic', 'usps-fcm-flat', '3-digit', [CHICAGO], 130, 70],
  ['cedar-clinic', 'usps-fcm-flat', 'adc', [SAN_FRANCISCO], 110, 70],
  ['cedar-clinic', 'usps-fcm-flat', 'mixed-adc', ELSEWHERE, 107, 73],
];

const GIVEN = ['Ada', 'Bruno', 'Chloé', 'Dario', 'Edda', 'Farid', 'Gwen', 'Hugo', 'Inés', 'Jonas', 'Kaya', 'Léon', 'Mira', 'Nils', 'Olga', 'Pau', 'Rosa', 'Søren', 'Tala', 'Zoë'];
const FAMILY_START = ['Brack', 'Corv', 'Dunth', 'Elver', 'Fenn', 'Gorm', 'Hask', 'Ivor', 'Jell', 'Korr', 'Lund', 'Marr', 'Nøk', 'Orm', 'Pell', 'Quill', 'Rusk', 'Sköv', 'Tolv', 'Wend'];
const FAMILY_END = ['amere', 'below', 'croft', 'dahl', 'enfold', 'garth', 'ister', 'ley', 'mond', 'never', 'quist', 'stane', 'thorne', 'vane', 'wick'];
const COMPANIES = [
  'Pennywhistle & Daughters, Inc.',
  'The "Blue Kettle" Co-op',
  'Lantern Row Bindery, LLC',
  'Café Tournesol Réunis',
  'Ninefold Ladder Works',
  'Müßig & Söhne Klavierbau',
];
const STREETS = ['Tinderbox Ln', 'Lower Thimble St', 'Cobalt Kettle Rd', 'Old Ferrule Way', 'Marzipan Ct', 'Windlass Ave', 'Third Compass Blvd', 'Quiet Loom Pl'];

/** The whole file: a header and a row for each piece, LF line ends, UTF-8 without BOM. */
export function generateMailing() {
  const random = generator(0x5eed2025);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const counters = new Map();
  const trays = PLAN.flatMap((plan) => traysOf(plan, pick));
  // The bureau commingles: trays of all customers go down the line in the order of their ZIP Codes.
  trays.sort((a, b) => compare(a.zip, b.zip) || compare(a.order, b.order));
  const rows = [];
  for (const tray of trays) {
    for (const weight of tray.weights) {
      const series = `${tray.customer.split('-')[0]}-${tray.product.split('-')[2]}`;
      const number = (counters.get(series) ?? 0) + 1;
      counters.set(series, number);
      rows.push([
        `${series}-${String(number).padStart(4, '0')}`,
        tray.customer,
        tray.product,
        tray.level,
        weight,
        random() < 0.04 ? pick(COMPANIES) : `${pick(GIVEN)} ${pick(FAMILY_START)}${pick(FAMILY_END)}`,
        `${1 + Math.floor(random() * 990)} ${pick(STREETS)}${random() < 0.1 ? `, Apt ${1 + Math.floor(random() * 40)}` : ''}`,
        tray.city,
        tray.state,
        random() < 0.2 ? `${tray.zip}-${String(1000 + Math.floor(random() * 8999))}` : tray.zip,
      ]);
    }
  }
  const header = ['piece_ref', 'customer', 'product', 'level', 'weight_oz', 'name', 'address', 'city', 'state', 'zip'];
  return [header, ...rows].map((row) => `${row.map(quoted).join(',')}\n`).join('');
}

/** A plan's pieces dealt over its ZIP Codes in turn, one tray for each ZIP Code. */
function traysOf([customer, product, level, places, lower, higher], pick) {
  const [lowerWeights, higherWeights] = product.endsWith('flat') ? [FLATS_3, FLATS_4] : [LETTERS_1, LETTERS_2];
  const trays = places.flatMap(([city, state, zips]) =>
    zips.map((zip) => ({ customer, product, level, city, state, zip, weights: [], order: `${customer} ${product} ${level}` })),
  );
  for (let piece = 0; piece < lower + higher; piece += 1) {
    trays[piece % trays.length].weights.push(pick(piece < lower ? lowerWeights : higherWeights));
  }
  return trays.filter((tray) => tray.weights.length > 0);
}

function quoted(value) {
  return /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** mulberry32: 32-bit state, numbers in [0, 1). For made-up names only. */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  writeFileSync(new URL('bureau-mailing.csv', import.meta.url), generateMailing());
}
