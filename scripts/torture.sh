#!/usr/bin/env bash
# npm run torture -- [--rounds N] [--seed S] [--kill NAME,...] [--placement NAME] [--keep]: a node under load whose processes are killed with -9.
# Compiles itself into .cache/torture, which nothing else uses; the node is the one in dist/ (ARCHIPELAGO_TEST_BIN: another). Exit status 1:
# something is wrong (docs/testing.md).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/node_modules/.bin/tsc" -p "$root/test/torture/tsconfig.json"
export ARCHIPELAGO_TEST_BIN=${ARCHIPELAGO_TEST_BIN:-$root/dist/cli} ARCHIPELAGO_TEST_ROOT=$root
exec node "$root/.cache/torture/test/torture/main.js" "$@"
