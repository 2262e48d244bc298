#!/usr/bin/env bash
# npm run ganeti -- [--moves N]: the ExtStorage provider on a real Ganeti cluster of two nodes (docs/testing.md). Needs root.
# Exit status 1: something is wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/build-if-needed.sh

while [ $# -gt 0 ]; do
  case $1 in
    --moves) export ARCHIPELAGO_TEST_MOVES=$2; shift 2 ;;
    *) echo "usage: npm run ganeti -- [--moves N]" >&2; exit 2 ;;
  esac
done
ensure_node
ensure_packages
ensure_build
exec node_modules/.bin/vitest run --config test/ganeti/vitest.config.ts
