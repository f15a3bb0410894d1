#!/usr/bin/env bash
# Installs VS Code 1.96 as a web application (code-server 4.96.4, from the npm registry) into DIR, so that
# tests/e2e can drive the extension in the editor users really have.
#
#   scripts/install_code_server.sh DIR
#   node DIR/node_modules/code-server/out/node/entry.js --version
#
# Nothing is fetched from anywhere but the package registry: install scripts stay off, the native modules are
# compiled here, and the system's ripgrep is used instead of a downloaded one. Running it again does nothing.
set -euo pipefail

version=4.96.4
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }

missing=()
for tool in node npm make g++ python3 rg; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "$0: missing: ${missing[*]}. On Debian and Ubuntu: apt-get install nodejs npm make g++ python3 ripgrep" >&2
  exit 2
fi
if [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 20 ]; then
  echo "$0: Node.js 20 or newer is needed, this is $(node --version)" >&2
  exit 2
fi

mkdir -p "$1"
cd "$1"
dir=$PWD
server=$dir/node_modules/code-server
stamp=$dir/.installed-$version
[ -e "$stamp" ] && exit 0

# Headers that came with this Node.js spare node-gyp a download; without them it fetches its own.
prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
if [ -e "$prefix/include/node/node.h" ]; then export npm_config_nodedir=$prefix; fi

npm_quietly() { npm "$@" --no-audit --no-fund --loglevel=error; }

log=$dir/build.log
: >"$log"
trap '[ $? -eq 0 ] || { echo "installing code-server failed; the end of $log:" >&2; tail -n 20 "$log" >&2; }' EXIT

[ -e package.json ] || echo '{"private": true}' >package.json
npm_quietly install "code-server@$version" --ignore-scripts >>"$log" 2>&1

# VS Code's own modules live in a package of their own. Its lock file pins a dependency to a git repository;
# without the file the registry's release of it is taken.
vscode=$server/lib/vscode
rm -f "$vscode/npm-shrinkwrap.json"
(
  cd "$vscode"
  npm_quietly install --omit=dev --legacy-peer-deps --ignore-scripts
  npm_quietly rebuild @vscode/spdlog node-pty @parcel/watcher native-watchdog
) >>"$log" 2>&1
mkdir -p "$vscode/node_modules/@vscode/ripgrep/bin"
ln -sf "$(command -v rg)" "$vscode/node_modules/@vscode/ripgrep/bin/rg"

# argon2 hashes passwords, which the tests do not use, but code-server loads it at start.
node_gyp=$(find "$(npm root -g 2>>"$log")/npm/node_modules/node-gyp/bin" -name node-gyp.js | head -n 1)
(
  cd "$dir/node_modules/argon2"
  npm_config_node_gyp=$node_gyp ../.bin/node-pre-gyp rebuild --build-from-source ${npm_config_nodedir:+--nodedir="$npm_config_nodedir"}
) >>"$log" 2>&1

# Its first start writes a settings file below XDG_CONFIG_HOME: not into the user's.
XDG_CONFIG_HOME=$dir/config node "$server/out/node/entry.js" --version
touch "$stamp"
