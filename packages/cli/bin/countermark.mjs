#!/usr/bin/env node
// The command `countermark`: runs what was built. Committed here, because npm links a workspace's command at install, before
// anything is built.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const main = new URL('../dist/program/main.js', import.meta.url);
if (existsSync(fileURLToPath(main))) {
  const { run } = await import(main.href);
  await run(process.argv.slice(2));
} else {
  process.stderr.write('Countermark is not built yet: run `npm start` or `npm run build` in its checkout first.\n');
  process.exitCode = 2;
}
