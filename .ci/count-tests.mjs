// Counts a vitest JSON report: `node count-tests.mjs REPORT EXIT_CODE` prints `PASSED FAILED SKIPPED` on one line, and
// names on stderr what failed and what was skipped.
//
// Guarantees that a run which failed is never counted as all passed: a file that could not be loaded, an error outside
// any test and a missing report count as one failure each.
import { readFileSync } from 'node:fs';

const [reportFile, exitCode] = process.argv.slice(2);

function readReport() {
  try {
    return JSON.parse(readFileSync(reportFile, 'utf8'));
  } catch (error) {
    process.stderr.write(`No report of the tests: ${error.message}\n`);
    return { testResults: [] };
  }
}

const count = { passed: 0, failed: 0, skipped: 0 };
for (const { name, status, message, assertionResults } of readReport().testResults) {
  for (const { status: outcome, fullName, failureMessages } of assertionResults) {
    if (outcome === 'passed') count.passed += 1;
    else if (outcome === 'failed') count.failed += 1;
    else count.skipped += 1;
    if (outcome !== 'passed') process.stderr.write(`${outcome}: ${fullName} (${name})\n`);
    if (outcome === 'failed')
      for (const said of failureMessages ?? []) process.stderr.write(`  ${said.split('\n', 3).join(' | ')}\n`);
  }
  if (status === 'failed' && !assertionResults.some((result) => result.status === 'failed')) {
    count.failed += 1;
    process.stderr.write(`failed: ${name}: ${message}\n`);
  }
}
if (count.failed === 0 && (exitCode !== '0' || count.passed === 0)) {
  count.failed = 1;
  process.stderr.write(`failed: the run of the tests ended with exit code ${exitCode}\n`);
}
process.stdout.write(`${count.passed} ${count.failed} ${count.skipped}\n`);
