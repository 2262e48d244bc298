#!/usr/bin/env bash
# npm test: everything a change must pass. Installs what is missing, compiles, checks style and types, runs the unit and the
# end-to-end tests. Arguments go to vitest: `npm test -- test/e2e/fio.test.ts`, `npm test -- --project unit`.
# The last line is the count: `N passed, N failed` and `, N skipped` when there were any. Exit status: vitest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/build-if-needed.sh
ensure_node

if ! scripts/setup.sh; then
  if [ "${CI:-}" = true ]; then exit 1; fi
  echo "test: going on without; the tests that need what is missing say so and are skipped" >&2
fi
ensure_packages
# Compiled afresh in full: a test must never run against the output of sources that are gone.
npm run --silent build
touch dist/.built
npx tsc -p test/tsconfig.json
npx biome check .

report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
npx vitest run --reporter=default --reporter=json --outputFile.json="$report" "$@" || status=$?
node scripts/count-tests.mjs "$report" || status=$((status ? status : 1))
exit "$status"
