#!/usr/bin/env bash
# npm run simulate -- [--seed N] [--seeds N] [--cuts N] [--only N] [--break NAME|list] [--trace]: power cuts on a modelled disk.
# Compiles sources and simulator into .cache/simulate, which nothing else uses. Exit status 1: something was found (docs/testing.md).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/node_modules/.bin/tsc" -p "$root/test/sim/tsconfig.json"
exec node "$root/.cache/simulate/test/sim/main.js" "$@"
