#!/usr/bin/env bash
# Heavy transactions at full size: a chain of ten blocks that each begin with a transaction of some
# 20 seconds (BLAKE2F with 2^31 rounds), and 100 ordinary ones behind it, on two shard processes and
# in process. Nothing may be stuck, lost or alarming, and both runs must verify every block.
#
# Usage: scripts/heavy.sh [ROUNDS [BLOCKS]]     (default: 2147483648 10)
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
rounds=${1:-2147483648}
blocks=$((${2:-10} + 1))

target=$(cargo metadata --format-version 1 --no-deps --offline 2>/dev/null |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
bin=${SHARDS_BIN_DIR:-${target:-target}/release}
[ -n "${SHARDS_BIN_DIR:-}" ] || cargo build --locked --release --workspace --bins

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$bin/lab" generate --out "$folder" --blocks "$blocks" --txs 100 --seed 9 \
    --gas-limit $((rounds + 500000000)) --heavy "$rounds"

failed=0
for where in "--shards 2" "--shards 2 --in-process"; do
    echo "== coordinator run $where" >&2
    # shellcheck disable=SC2086
    if ! "$bin/coordinator" run "$folder/chain.rlp" --genesis "$folder/genesis.json" $where --json \
        >"$folder/rows" 2>"$folder/said"; then
        failed=1
    fi
    sed -n 's/.*"number":\([0-9]*\).*/block \1/p; /"summary":true/p' "$folder/rows" | tail -1
    if grep -E "ALARM|LOST|stuck" "$folder/said"; then
        echo "a heavy transaction must be none of this" >&2
        failed=1
    fi
done
exit "$failed"
