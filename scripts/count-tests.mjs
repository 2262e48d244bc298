// count-tests.mjs REPORT : one line with the totals of vitest's JSON report. Files that failed before any test of theirs ran
// (an import error, a failed beforeAll) count as one failure each: a report of zero failures must mean that nothing failed.
import { readFileSync } from 'node:fs';

let report;
try {
  report = JSON.parse(readFileSync(process.argv[2], 'utf8'));
} catch {
  console.log('0 passed, 1 failed');
  console.error('vitest wrote no report: it did not get as far as running tests');
  process.exit(1);
}
const results = report.testResults.flatMap((file) => file.assertionResults);
const count = (...states) => results.filter((r) => states.includes(r.status)).length;
const brokenFiles = report.testResults.filter(
  (file) => file.status === 'failed' && !file.assertionResults.some((r) => r.status === 'failed'),
).length;
const failed = count('failed') + brokenFiles;
const skipped = count('skipped', 'pending', 'todo', 'disabled');
console.log(`${count('passed')} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`);
process.exit(failed || !report.success ? 1 : 0);
