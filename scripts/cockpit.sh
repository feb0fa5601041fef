#!/usr/bin/env bash
# Opens the coordinator's page in a browser without a window, kills shards, and waits until the page tells of it.
#
# Usage: scripts/cockpit.sh [DIR]   writes screenshots to DIR, target/browser/shots by default
#
# Needs Node.js with npm, its registry (for playwright-core) and Chromium (CHROMIUM overrides where it is). It is no part
# of scripts/test.sh.
set -euo pipefail

case ${1:-} in
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '/^set /d'
    exit 0
    ;;
esac
shots=${1:+$(realpath -m -- "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shots=${shots:-$PWD/target/browser/shots}
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
for need in node npm; do
    command -v "$need" >/dev/null || { echo "$need is not installed" >&2 && exit 2; }
done
[ -n "$chromium" ] || { echo "Chromium is not installed; CHROMIUM says where it is" >&2 && exit 2; }

cargo build --locked --release -q -p coordinator -p executor-shard -p lab --bins
npm install --silent --no-save --no-audit --no-fund --prefix target/browser playwright-core@1.64.1
mkdir -p "$shots"
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
target/release/lab generate --out "$scratch/chain" --blocks 60 --txs 600 --seed 5 >/dev/null
NODE_PATH=$PWD/target/browser/node_modules node tests/browser/cockpit.cjs "$chromium" "$scratch" "$shots"
