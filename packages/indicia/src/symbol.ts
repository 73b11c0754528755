/**
 * Data Matrix ECC 200 symbols (ISO/IEC 16022) of binary payloads.
 *
 * Guarantees: the symbol carries exactly the payload's bytes, all in Base 256 encodation, so that its size follows from the
 * payload's length alone and every reader returns the same bytes; square symbols of one error correction block, 10 x 10
 * to 48 x 48 modules, at most 172 bytes. The same payload always gives the same modules.
 * Does not cover text compaction, rectangular symbols, ECI, GS1 or symbols of several blocks; why this is not a library is
 * told in docs/decisions/data-matrix.md.
 */

/** A symbol without its quiet zone. */
export interface DataMatrix {
  /** Modules on each side. */
  readonly size: number;
  /** `size * size` modules, row by row from the top left; 1 is dark. */
  readonly modules: Uint8Array;
}

/** ISO/IEC 16022 table 7, square symbols of one block: modules a side, data regions a side, data codewords, check codewords. */
const SIZES = [
  [10, 1, 3, 5],
  [12, 1, 5, 7],
  [14, 1, 8, 10],
  [16, 1, 12, 12],
  [18, 1, 18, 14],
  [20, 1, 22, 18],
  [22, 1, 30, 20],
  [24, 1, 36, 24],
  [26, 1, 44, 28],
  [32, 2, 62, 36],
  [36, 2, 86, 42],
  [40, 2, 114, 48],
  [44, 2, 144, 56],
  [48, 2, 174, 68],
] as const;

const LATCH_TO_BASE_256 = 231;
const PAD = 129;

/** The longest payload: 174 data codewords less the latch and the length. */
const MAX_PAYLOAD_BYTES = 172;

/** What a symbol of one size consists of, payload apart. */
interface Frame {
  readonly size: number;
  readonly dataCodewords: number;
  readonly checkCodewords: number;
  /** Per module: `LIGHT`, `DARK`, or 8 * codeword + bit, bit 0 being the most significant. */
  readonly cells: Int16Array;
  /** Coefficients of the generator polynomial below its leading 1, highest power first, as logarithms. */
  readonly generatorLogs: Uint8Array;
}

const LIGHT = -1;
const DARK = -2;

/** At most one entry for each row of `SIZES`. */
const frames = new Map<number, Frame>();

/** GF(256) over x^8 + x^5 + x^3 + x^2 + 1 (ISO/IEC 16022, annex E). */
const { powers, logs } = galoisField();

/**
 * Encodes a payload as the smallest square symbol that holds it.
 * @throws RangeError when the payload is empty or longer than 172 bytes: payloads come from a layout of fixed
 * length, so that is a broken invariant.
 */
export function encodeDataMatrix(payload: Uint8Array): DataMatrix {
  if (payload.length === 0 || payload.length > MAX_PAYLOAD_BYTES) {
    throw new RangeError(`A payload of ${payload.length} bytes does not fit: 1 to ${MAX_PAYLOAD_BYTES} do.`);
  }
  const frame = frameFor(payload.length + 2);
  const codewords = new Uint8Array(frame.dataCodewords + frame.checkCodewords);
  fillData(codewords, payload, frame.dataCodewords);
  fillCheck(codewords, frame);
  const modules = new Uint8Array(frame.cells.length);
  for (let i = 0; i < modules.length; i++) {
    const cell = frame.cells[i] as number;
    if (cell === DARK) modules[i] = 1;
    else if (cell >= 0) modules[i] = ((codewords[cell >> 3] as number) >> (7 - (cell & 7))) & 1;
  }
  return { size: frame.size, modules };
}

/** Latch, length and bytes with the 255-state randomising (5.2.9.2), then pads with the 253-state one (5.2.4.3). */
function fillData(codewords: Uint8Array, payload: Uint8Array, dataCodewords: number): void {
  codewords[0] = LATCH_TO_BASE_256;
  const randomised = (value: number, position: number): number => (value + ((149 * position) % 255) + 1) & 0xff;
  codewords[1] = randomised(payload.length, 2);
  for (let i = 0; i < payload.length; i++) codewords[i + 2] = randomised(payload[i] as number, i + 3);
  for (let i = payload.length + 2; i < dataCodewords; i++) {
    const first = i === payload.length + 2;
    const pad = PAD + ((149 * (i + 1)) % 253) + 1;
    codewords[i] = first ? PAD : pad > 254 ? pad - 254 : pad;
  }
}

/** Appends the Reed-Solomon check codewords: the remainder of the data by the generator polynomial. */
function fillCheck(codewords: Uint8Array, frame: Frame): void {
  const { dataCodewords, checkCodewords, generatorLogs } = frame;
  const check = codewords.subarray(dataCodewords);
  for (let i = 0; i < dataCodewords; i++) {
    const lead = (codewords[i] as number) ^ (check[0] as number);
    check.copyWithin(0, 1);
    check[checkCodewords - 1] = 0;
    if (lead === 0) continue;
    const leadLog = logs[lead] as number;
    for (let j = 0; j < checkCodewords; j++) {
      check[j] = (check[j] as number) ^ (powers[leadLog + (generatorLogs[j] as number)] as number);
    }
  }
}

function frameFor(neededCodewords: number): Frame {
  const row = SIZES.find(([, , dataCodewords]) => dataCodewords >= neededCodewords);
  if (row === undefined) throw new RangeError(`No symbol holds ${neededCodewords} codewords.`);
  const [size, regions, dataCodewords, checkCodewords] = row;
  const known = frames.get(size);
  if (known !== undefined) return known;
  const cells = frameCells(size, regions);
  const frame = { size, dataCodewords, checkCodewords, cells, generatorLogs: generatorLogs(checkCodewords) };
  frames.set(size, frame);
  return frame;
}

/** Finder and timing pattern around each data region (5.1), and the bits of the codewords inside. */
function frameCells(size: number, regions: number): Int16Array {
  const pitch = size / regions;
  const side = pitch - 2;
  const bits = placement(side * regions);
  const cells = new Int16Array(size * size);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const inY = y % pitch;
      const inX = x % pitch;
      let cell: number;
      if (inX === 0 || inY === pitch - 1) cell = DARK;
      else if (inY === 0) cell = inX % 2 === 0 ? DARK : LIGHT;
      else if (inX === pitch - 1) cell = inY % 2 === 1 ? DARK : LIGHT;
      else {
        const row = Math.floor(y / pitch) * side + inY - 1;
        const column = Math.floor(x / pitch) * side + inX - 1;
        cell = bits[row * side * regions + column] as number;
      }
      cells[y * size + x] = cell;
    }
  }
  return cells;
}

/** The eight modules of a codeword's usual shape, most significant bit first, from its lower right one: [row, column]. */
const UTAH = [
  [-2, -2],
  [-2, -1],
  [-1, -2],
  [-1, -1],
  [-1, 0],
  [0, -2],
  [0, -1],
  [0, 0],
] as const;

/** Where each bit of each codeword stands in the mapping matrix of `n` x `n` modules (ISO/IEC 16022, annex F). */
function placement(n: number): Int16Array {
  const UNSET = -3;
  const bits = new Int16Array(n * n).fill(UNSET);
  let codeword = 0;
  const place = (row: number, column: number, bit: number): void => {
    let r = row;
    let c = column;
    if (r < 0) {
      r += n;
      c += 4 - ((n + 4) % 8);
    }
    if (c < 0) {
      c += n;
      r += 4 - ((n + 4) % 8);
    }
    bits[r * n + c] = 8 * codeword + bit;
  };
  const shape = (modules: readonly (readonly [number, number])[]): void => {
    for (const [bit, [row, column]] of modules.entries()) place(row, column, bit);
    codeword++;
  };
  const utah = (row: number, column: number): void => {
    shape(UTAH.map(([dr, dc]) => [row + dr, column + dc] as const));
  };
  const free = (row: number, column: number): boolean => bits[row * n + column] === UNSET;
  const e = n - 1;
  const topRight = [
    [0, e - 1],
    [0, e],
    [1, e],
    [2, e],
    [3, e],
  ] as const;
  /** The shapes that wrap around the corners, by size of the matrix (figures F.3 to F.6). */
  // biome-ignore format: one shape a line
  const corner = (row: number, column: number): void => {
    if (row === n && column === 0) shape([[e, 0], [e, 1], [e, 2], ...topRight]);
    if (row === n - 2 && column === 0 && n % 4 !== 0) shape([[e - 2, 0], [e - 1, 0], [e, 0], [0, e - 3], [0, e - 2], [0, e - 1], [0, e], [1, e]]);
    if (row === n - 2 && column === 0 && n % 8 === 4) shape([[e - 2, 0], [e - 1, 0], [e, 0], ...topRight]);
    if (row === n + 4 && column === 2 && n % 8 === 0) shape([[e, 0], [e, e], [0, e - 2], [0, e - 1], [0, e], [1, e - 2], [1, e - 1], [1, e]]);
  };

  let row = 4;
  let column = 0;
  while (row < n || column < n) {
    corner(row, column);
    for (; row >= 0 && column < n; row -= 2, column += 2) {
      if (row < n && column >= 0 && free(row, column)) utah(row, column);
    }
    row += 1;
    column += 3;
    for (; row < n && column >= 0; row += 2, column -= 2) {
      if (row >= 0 && column < n && free(row, column)) utah(row, column);
    }
    row += 3;
    column += 1;
  }
  // Where the bits do not fill the matrix, its lower right corner is a fixed chequer of four modules.
  if (free(n - 1, n - 1)) {
    bits[(n - 1) * n + n - 1] = DARK;
    bits[(n - 2) * n + n - 2] = DARK;
    bits[(n - 1) * n + n - 2] = LIGHT;
    bits[(n - 2) * n + n - 1] = LIGHT;
  }
  return bits;
}

function galoisField(): { powers: Uint8Array; logs: Uint8Array } {
  const powers = new Uint8Array(510);
  const logs = new Uint8Array(256);
  let value = 1;
  for (let i = 0; i < 255; i++) {
    powers[i] = value;
    powers[i + 255] = value;
    logs[value] = i;
    value <<= 1;
    if (value > 255) value ^= 0x12d;
  }
  return { powers, logs };
}

/** (x - 2)(x - 2^2)...(x - 2^degree). No coefficient of those degrees is zero, so each has a logarithm. */
function generatorLogs(degree: number): Uint8Array {
  const polynomial = new Uint8Array(degree + 1);
  polynomial[0] = 1;
  for (let i = 1; i <= degree; i++) {
    for (let j = i; j >= 1; j--) {
      const previous = polynomial[j - 1] as number;
      polynomial[j] = (polynomial[j] as number) ^ (powers[(logs[previous] as number) + i] as number);
    }
  }
  return polynomial.subarray(1).map((coefficient) => logs[coefficient] as number);
}
