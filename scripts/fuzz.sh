#!/usr/bin/env bash
# npm run fuzz -- [--seconds N] [--seed S] [--target NAME] [--grow]: the fuzzer of the NBD server, its client and its parsers.
# Compiles sources and fuzzer into .cache/fuzz, which nothing else uses. Exit status 1: something was found (see test/fuzz/README.md).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/node_modules/.bin/tsc" -p "$root/test/fuzz/tsconfig.json"
exec node "$root/.cache/fuzz/test/fuzz/main.js" "$@"
