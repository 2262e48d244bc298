# Sourced by the other scripts from the top of the checkout: installs the npm packages and compiles, each only when
# something is newer than the last time.

ensure_node() {
  command -v node >/dev/null || { echo "Node.js 20.19 or newer is needed (nodejs.org)" >&2; exit 1; }
  node -e 'const [a, b] = process.versions.node.split("."); process.exit(+a > 20 || (+a === 20 && +b >= 19) ? 0 : 1)' ||
    { echo "Node.js 20.19 or newer is needed; this is $(node --version)" >&2; exit 1; }
}

ensure_packages() {
  # npm writes this file last, so it also tells a finished installation from a broken one.
  local stamp=node_modules/.package-lock.json
  if [ ! -e "$stamp" ] || [ package-lock.json -nt "$stamp" ]; then
    # npm would empty the directory that it leads to, which others use.
    [ ! -L node_modules ] || { echo "node_modules is a symbolic link and out of date: run npm ci where it leads to, or remove it" >&2; exit 1; }
    npm ci --no-audit --no-fund >&2
    touch "$stamp"
  fi
}

ensure_build() {
  local stamp=dist/.built
  if [ ! -e "$stamp" ] || [ -n "$(find src bench tsconfig.json package.json -newer "$stamp" -type f -print -quit)" ]; then
    npm run --silent build >&2
    touch "$stamp"
  fi
}
