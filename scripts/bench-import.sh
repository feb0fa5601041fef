#!/usr/bin/env bash
# Import into a fresh data directory: alloy-evm's executor on one thread against 1 and 2 shard
# processes, and 2 shards in one process, all on the same kind of ledger. The modes take turns, so
# that a drift of the machine's speed meets all of them. Prints a Markdown table of medians.
# The chain is generated once, from a fixed seed, and kept under the target folder.
#
# Usage: scripts/bench-import.sh [ROUNDS]      (default 3)
# Environment: BENCH_BLOCKS (60), BENCH_TXS (500), BENCH_ACCOUNTS (100000)
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-3}
blocks=${BENCH_BLOCKS:-60}
txs=${BENCH_TXS:-500}
accounts=${BENCH_ACCOUNTS:-100000}
if [[ -z ${SHARDS_BIN_DIR:-} ]]; then
    cargo build --locked --release -p coordinator -p executor-shard -p lab
fi
target=$(cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
bin=${SHARDS_BIN_DIR:-$target/release}
chain=$target/bench/chain-$blocks-$txs-$accounts
if [[ ! -f $chain/chain.rlp ]]; then
    "$bin/lab" generate --out "$chain" --blocks "$blocks" --txs "$txs" --accounts "$accounts" --seed 1
fi
work=$(mktemp -d "$target/bench/import.XXXXXX")
trap 'rm -rf "$work"' EXIT

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    for mode in "--sequential" "--shards 1" "--shards 2" "--in-process --shards 2"; do
        rm -rf "$work/data"
        program=$bin/coordinator
        [ "$mode" = "--sequential" ] && program=$bin/lab
        # shellcheck disable=SC2086
        "$program" import --genesis "$chain/genesis.json" --data-dir "$work/data" $mode --json "$chain/chain.rlp" |
            grep '"summary":true' | sed "s/^/$mode\t/" >>"$work/summaries"
    done
done

echo "$blocks blocks of $txs transactions, $accounts accounts, medians of $rounds rounds:"
echo
awk -F'\t' '
function field(name,   text) {
    text = $2
    if (!match(text, "\"" name "\":[^,}]*")) return ""
    text = substr(text, RSTART, RLENGTH)
    sub("^\"" name "\":", "", text)
    gsub("\"", "", text)
    return text
}
function median(text,   n, i, j, t, list) {
    n = split(text, list, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] + 0 < list[j-1] + 0; j--) { t = list[j]; list[j] = list[j-1]; list[j-1] = t }
    return n % 2 ? list[(n+1)/2] : (list[n/2] + list[n/2+1]) / 2
}
{
    if (field("error") != "null") { print $1 " failed: " $2 > "/dev/stderr"; failed = 1 }
    if (root == "") root = field("state_root")
    if (field("state_root") != root) { print $1 " ends with another state root" > "/dev/stderr"; failed = 1 }
    blocks[$1] = blocks[$1] " " field("blocks_per_s")
    mgas[$1] = mgas[$1] " " field("mgas_per_s")
}
END {
    modes[1] = "--sequential"; modes[2] = "--shards 1"; modes[3] = "--shards 2"; modes[4] = "--in-process --shards 2"
    print "| mode | blocks/s | Mgas/s |"
    print "|---|---:|---:|"
    for (m = 1; m <= 4; m++) printf "| `%s` | %.1f | %.0f |\n", modes[m], median(blocks[modes[m]]), median(mgas[modes[m]])
    exit failed
}' "$work/summaries"
