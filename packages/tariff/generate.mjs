// Writes src/usps-*.ts from data/*.json: each data file as its canonical text in a module, because a JSON import is
// experimental in Node 20 and because the tariff digest needs exact bytes. Run after a build (`npm run generate -w
// @countermark/tariff`); tariff.test.ts refuses a module that differs from its data file.
import { readFileSync, writeFileSync } from 'node:fs';
import { canonicalText } from './dist/canonical-text.js';

const MODULES = [
  [
    'usps-2025-07-13',
    'USPS_2025_07_13',
    'The USPS prices of 2025-07-13 as canonical text: its UTF-8 bytes are what the tariff digest covers.',
  ],
  ['usps-zip-prefixes', 'USPS_ZIP_PREFIXES', 'The 3-digit ZIP Code prefixes of DMM L601 as canonical text.'],
];

for (const [name, constant, purpose] of MODULES) {
  const text = canonicalText(JSON.parse(readFileSync(new URL(`data/${name}.json`, import.meta.url), 'utf8')));
  const literal = `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const source = `/**\n * ${purpose}\n * Generated from data/${name}.json by generate.mjs, which names the sources: edit that file, not this one.\n */\nexport const ${constant} =\n  ${literal};\n`;
  writeFileSync(new URL(`src/${name}.ts`, import.meta.url), source);
}
