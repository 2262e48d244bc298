#!/usr/bin/env bash
# npm run bench: measures this project beside the NBD servers that are installed. `npm run bench -- --help` lists the options.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/build-if-needed.sh
ensure_node
case " $* " in
  *' --help '*) ;;
  *) scripts/setup.sh || echo "bench: going on with the peers that are installed" >&2 ;;
esac
ensure_packages
ensure_build
exec node dist/bench/main.js "$@"
