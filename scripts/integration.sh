#!/usr/bin/env bash
# The multi-process tests: builds the binaries, then starts, kills, freezes and stops them in every
# order. Arguments go to the tests, for example a part of a name:
#
#   scripts/integration.sh                        all of them
#   scripts/integration.sh killed                 those with "killed" in their names
#   SHARDS_TEST_ALL=1 scripts/integration.sh      every plan on all recorded blocks, not on nine
#
# SHARDS_TEST_DATA names the folder of the recorded blocks (default: ../shared/data); tests that need
# it are skipped where it is missing, with a word on standard error, and fail where CI=true. SHARDS_BIN_DIR has tests use
# the binaries in that folder.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$root"

target=$(cargo metadata --format-version 1 --no-deps --offline 2>/dev/null |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
export SHARDS_TEST_LOGS=${SHARDS_TEST_LOGS:-${target:-$root/target}/integration-logs}
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
mkdir -p -- "$SHARDS_TEST_LOGS"

if [[ -z ${SHARDS_BIN_DIR:-} ]]; then
    echo "== building coordinator, executor-shard and lab"
    cargo build --locked --release --bin coordinator --bin executor-shard --bin lab
fi

echo "== multi-process tests"
began=$SECONDS
if ! cargo test --locked --release -p shard-tests --no-fail-fast -- "$@"; then
    echo "== FAILED after $((SECONDS - began)) s; the logs of the failed tests are in $SHARDS_TEST_LOGS" >&2
    exit 1
fi
echo "== all passed in $((SECONDS - began)) s"
