#!/usr/bin/env bash
# Time per block: alloy-evm's executor on one thread against 1 and 2 shard processes, and 2 shards
# in one process. The modes take turns, so that a drift of the machine's speed meets all of them.
# Prints a Markdown table of medians. Usage: scripts/bench.sh [ROUNDS] [INPUT…]
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-5}
shift || true
if [ $# -eq 0 ]; then
    data=${SHARDS_TEST_DATA:-../shared/data}
    set -- "$data"/mainnet/*.json.gz
fi
cargo build --locked --release -p coordinator -p executor-shard -p lab
bin=${CARGO_TARGET_DIR:-target}/release
out=$(mktemp)
trap 'rm -f "$out"' EXIT

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    for mode in "--sequential" "--shards 1" "--shards 2" "--in-process --shards 2"; do
        program=$bin/coordinator
        [ "$mode" = "--sequential" ] && program=$bin/lab
        # shellcheck disable=SC2086
        "$program" run "$@" $mode --json | grep -v '"summary"' | sed "s/^/$mode\t/" >>"$out"
    done
done

awk -F'\t' '
function field(name,   text) {
    text = $2
    if (!match(text, "\"" name "\":[^,}]*")) return ""
    text = substr(text, RSTART, RLENGTH)
    sub("^\"" name "\":", "", text)
    gsub("\"", "", text)
    return text
}
function median(key,   n, i, j, t, list) {
    n = split(samples[key], list, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] + 0 < list[j-1] + 0; j--) { t = list[j]; list[j] = list[j-1]; list[j-1] = t }
    return n % 2 ? list[(n+1)/2] : (list[n/2] + list[n/2+1]) / 2
}
{
    number = field("number") + 0
    if (field("verified") != "true") { print "block " number " did not verify with " $1 > "/dev/stderr"; failed = 1 }
    txs[number] = field("txs"); gas[number] = field("gas_used"); fork[number] = field("fork")
    samples[number SUBSEP $1] = samples[number SUBSEP $1] " " field("ms")
}
END {
    modes[1] = "--sequential"; modes[2] = "--shards 1"; modes[3] = "--shards 2"; modes[4] = "--in-process --shards 2"
    print "| block | fork | txs | Mgas | sequential ms | 1 shard ms | 2 shards ms | 2 in process ms |"
    print "|---:|---|---:|---:|---:|---:|---:|---:|"
    count = 0
    for (number in txs) order[++count] = number + 0
    for (i = 2; i <= count; i++) for (j = i; j > 1 && order[j] < order[j-1]; j--) { t = order[j]; order[j] = order[j-1]; order[j-1] = t }
    for (i = 1; i <= count; i++) {
        number = order[i]
        line = sprintf("| %d | %s | %d | %.1f |", number, fork[number], txs[number], gas[number] / 1e6)
        for (m = 1; m <= 4; m++) { value = median(number SUBSEP modes[m]); total[m] += value; line = line sprintf(" %.1f |", value) }
        print line
    }
    line = "| all | | | |"
    for (m = 1; m <= 4; m++) line = line sprintf(" %.0f |", total[m])
    print line
    exit failed
}' "$out"
