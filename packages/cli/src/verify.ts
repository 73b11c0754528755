/**
 * `countermark verify FILE...`: anyone checks records, confirmations, attestations and grants, offline, with public keys alone.
 */
import type { Command } from 'commander';
import { EXIT } from '@countermark/protocol/rejection';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { contentJson, contentText } from './content.ts';
import { Evidence, type Finding, findTrustBundle } from './evidence.ts';
import { valueOf } from './failure.ts';
import { note, print, printJson, style } from './terminal.ts';

type VerifyOptions = SharedOptions & { readonly trust?: string; readonly quiet?: boolean };

/** Declares the command. */
export function declare(program: Command): void {
  const verify = program
    .command('verify')
    .summary('check any record, confirmation, attestation, grant... offline')
    .description(
      'Checks files offline, with the public keys of a trust bundle alone, and says what they say. Device certificates and attestations are found beside the files. Of a record with a MAC only its attestation can be checked. Exit code 0: all verified; 3: not.',
    )
    .argument('<files...>', 'record, confirmation, attestation, grant, certificate, policy... files')
    .option('--trust <file>', 'trust bundle (default: beside the files, or of the data folder)')
    .option('--quiet', 'only the outcome of each file');
  withShared(verify, [
    'countermark verify countermark-data/output/*/records/*',
    'countermark verify 00000001.record.cose --trust trust-bundle.json --json',
  ]).action(async (given: string[], options: VerifyOptions) => {
    await carryOut(options, async () => {
      const files = given.map(userPath);
      const named = options.trust === undefined ? undefined : userPath(options.trust);
      const { file: trust, bundle } = valueOf(findTrustBundle(named, files, userPath(options.data)));
      const evidence = new Evidence(bundle, files);
      const findings = files.map((file) => evidence.examine(file));
      const broken = evidence.brokenLinks();
      const verified = broken.length === 0 && findings.every(({ outcome }) => outcome !== 'refused');
      if (options.json === true) {
        printJson({ trust, verified, results: findings.map(findingJson), broken });
      } else {
        note(`Checked against ${trust}.`);
        for (const finding of findings) print(findingText(finding, options.quiet === true));
        for (const link of broken) print(`${style.red('broken chain')}: ${link}`);
      }
      return verified ? EXIT.done : EXIT.input;
    });
  });
}

function findingJson(finding: Finding): object {
  const { message, ...rest } = finding;
  return { ...rest, ...(message === undefined ? {} : { content: contentJson(message) }) };
}

function findingText({ file, type, outcome, words, digest, message }: Finding, quiet: boolean): string {
  const colour = outcome === 'refused' ? style.red : outcome === 'skipped' ? style.dim : style.green;
  const head = `${colour(outcome)}: ${file} (${type})\n  ${words}`;
  if (quiet || message === undefined) return head;
  const content = `${digest === undefined ? '' : `digest ${digest}\n`}${contentText(message)}`;
  return `${head}\n${content.replace(/^(?=.)/gm, '    ')}\n`;
}
