#!/usr/bin/env bash
# What failover costs: 50 shards are killed in the middle of large blocks, some are frozen, one is ten
# times slower, and an idle fleet is watched. Each disturbed block stands beside an undisturbed one.
# Prints a table with the limits and whether they hold; --help shows the options.
#
# Usage: scripts/bench-failover.sh [OPTION…]
# SHARDS_BIN_DIR has it use the binaries in that folder.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${SHARDS_BIN_DIR:-} ]]; then
    cargo build --locked --release --workspace --bins
fi
exec cargo run --locked --release -q -p shard-tests --bin failover-bench -- "$@"
