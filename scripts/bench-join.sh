#!/usr/bin/env bash
# A shard joins a running import on a large state: how much slower is the import while the joining
# shard fetches the state, and when does it take part? The chain is generated once, from a fixed
# seed, and kept under the target folder; a million accounts take a minute or two.
#
# Usage: scripts/bench-join.sh
# Environment: BENCH_BLOCKS (240), BENCH_TXS (500), BENCH_ACCOUNTS (1000000)
set -euo pipefail
cd "$(dirname "$0")/.."

blocks=${BENCH_BLOCKS:-240}
txs=${BENCH_TXS:-500}
accounts=${BENCH_ACCOUNTS:-1000000}
if [[ -z ${SHARDS_BIN_DIR:-} ]]; then
    cargo build --locked --release --workspace --bins
fi
target=$(cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
bin=${SHARDS_BIN_DIR:-$target/release}
chain=$target/bench/chain-$blocks-$txs-$accounts
if [[ ! -f $chain/chain.rlp ]]; then
    "$bin/lab" generate --out "$chain" --blocks "$blocks" --txs "$txs" --accounts "$accounts" --seed 1
fi
work=$(mktemp -d "$target/bench/join.XXXXXX")
pids=()
# Ends only what was started here.
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT

"$bin/coordinator" import --genesis "$chain/genesis.json" --data-dir "$work/data" --shards 1 --json \
    --listen 127.0.0.1:0 --address-file "$work/address" "$chain/chain.rlp" >"$work/rows" &
import=$!
pids+=("$import")

now() { date +%s.%N; }
count() { grep -c '"number"' "$work/rows" || true; }
alive() { kill -0 "$import" 2>/dev/null || { echo "the import is over already: use more blocks" >&2; exit 1; }; }
reached() { until [[ $(count) -ge $1 ]]; do alive; sleep 0.02; done; }
rate() { awk -v from="$1" -v to="$2" -v n="$3" 'BEGIN { printf "%.2f", n / (to - from) }'; }
# A field of shard 9 in the status.
shard() {
    "$bin/coordinator" status --json --coordinator "http://$(cat "$work/address")" |
        grep -o '{[^{}]*"shard":9[^{}]*}' | grep -o "\"$1\":[^,}]*" | cut -d: -f2 | tr -d '"' || true
}

# The first blocks are left out: caches are cold.
reached $((blocks / 12))
began=$(now)
began_at=$(count)
reached $((blocks / 3))
joining=$(now)
joining_at=$(count)
"$bin/executor-shard" --shard-id 9 --coordinator "http://$(cat "$work/address")" 2>"$work/shard.log" &
pids+=("$!")
until [[ $(shard state) == ready ]]; do alive; sleep 0.1; done
synced=$(now)
synced_at=$(count)
until [[ $(shard results) -gt 0 ]]; do alive; sleep 0.1; done
part=$(now)
wait "$import"
ended=$(now)

before=$(rate "$began" "$joining" $((joining_at - began_at)))
during=$(rate "$joining" "$synced" $((synced_at - joining_at)))
after=$(rate "$synced" "$ended" $(($(count) - synced_at)))
echo "$accounts accounts, blocks of $txs transactions; 1 shard imports, a second one joins:"
echo "  before    $before blocks/s"
echo "  while it syncs ($(awk -v a="$joining" -v b="$synced" 'BEGIN { printf "%.1f", b - a }') s, $((synced_at - joining_at)) blocks)  $during blocks/s"
echo "  after     $after blocks/s"
awk -v before="$before" -v during="$during" 'BEGIN { printf "  dip       %.0f %%\n", (1 - during / before) * 100 }'
awk -v a="$joining" -v b="$part" 'BEGIN { printf "  its first result was used %.1f s after its start\n", b - a }'
grep '"summary":true' "$work/rows"
