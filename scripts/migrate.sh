#!/usr/bin/env bash
# npm run migrate -- [--moves N] [--guest-moves N] [--seed S]: moves a checked load (default 500 times) and a qemu guest (20 times) between two
# nodes on one store. 0 leaves one of them out. Prints the times and the seed. Exit status 1: a byte was wrong, or something hung.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/build-if-needed.sh

moves=500 guest_moves=20
while [ $# -gt 0 ]; do
  case $1 in
    --moves) moves=$2 ;;
    --guest-moves) guest_moves=$2 ;;
    --seed) export ARCHIPELAGO_TEST_SEED=$2 ;;
    *) echo "usage: npm run migrate -- [--moves N] [--guest-moves N] [--seed S]" >&2; exit 2 ;;
  esac
  shift 2
done
ensure_node
ensure_packages
ensure_build
export ARCHIPELAGO_TEST_MOVES=$moves ARCHIPELAGO_TEST_GUEST_MOVES=$guest_moves
files=()
[ "$moves" != 0 ] && files+=(test/e2e/migration.test.ts)
[ "$guest_moves" != 0 ] && files+=(test/e2e/migration-qemu.test.ts)
exec node_modules/.bin/vitest run --project e2e --testTimeout 36000000 "${files[@]}"
