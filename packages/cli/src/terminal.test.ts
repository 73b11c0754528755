import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

const terminal = new URL('./terminal.ts', import.meta.url).href;
const program = `
  const { noteStyle, style } = await import(${JSON.stringify(terminal)});
  process.stdout.write(style.bold('result'));
  process.stderr.write(noteStyle.bold('note'));
`;

test.each(['CI', 'FORCE_COLOR'])('nothing is coloured in a pipe, though %s is set', (name) => {
  const ended = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, [name]: 'true' },
  });
  expect([ended.stdout, ended.stderr]).toEqual(['result', 'note']);
});
