#!/usr/bin/env bash
# The failure model, measured: runs its tests a few times, one after another, and prints the table of
# the median times as Markdown. A row whose test failed is missing, and the script fails.
#
# Usage: scripts/failure-table.sh [ROUNDS]
# SHARDS_BIN_DIR has the tests use the binaries in that folder.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-3} in
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*[!0-9]* | 0)
    echo "$0: '$1' is no number of rounds; see --help" >&2
    exit 2
    ;;
esac
rounds=${1:-3}
if [[ -z ${SHARDS_BIN_DIR:-} ]]; then
    cargo build --locked --release --workspace --bins
fi
SHARDS_MEASURED=$(mktemp)
export SHARDS_MEASURED
trap 'rm -f "$SHARDS_MEASURED"' EXIT

failed=0
for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    cargo test --locked --release -p shard-tests --test failure_table -- \
        --include-ignored --test-threads 1 >&2 || failed=1
done
cargo run --locked --release -q -p shard-tests --bin failure-table -- "$SHARDS_MEASURED"
exit "$failed"
