#!/usr/bin/env bash
# Proves that the simulator can fail: builds it with one deliberate bug at a time (tests/mutants/sim-*.patch)
# and expects a violation within the number of seeds that the patch's second line states.
#   scripts/mutants-sim.sh [NAME…]      all of them, or those named (release-forgotten, …)
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
export CARGO_TARGET_DIR="${MUTANTS_TARGET_DIR:-$root/target/mutants-sim}"
# Cargo names crates by their folders: it has to be the same one every time, or all is built anew.
tree=$CARGO_TARGET_DIR/tree
# shellcheck source=tests/mutants/tree.sh
. tests/mutants/tree.sh

if [ $# -eq 0 ]; then
    patches=("$root"/tests/mutants/sim-*.patch)
else
    patches=("${@/#/$root/tests/mutants/sim-}")
    patches=("${patches[@]/%/.patch}")
fi

# What is not under test is built with less optimisation than a release has: it takes a third of the time.
quick=()
for crate in lab coordinator ledger engine; do
    quick+=(--config "profile.release.package.$crate.opt-level=1" --config "profile.release.package.$crate.debug=0")
done

missed=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    seeds=$(sed -n 's/^Found within \([0-9]*\) seeds\.$/\1/p' "$patch")
    [ -n "$seeds" ] || { echo "$patch: its second line is not \"Found within N seeds.\"" >&2 && exit 2; }
    fresh_tree
    (cd "$tree" && patch -s -p1 <"$patch" && cargo build --quiet --locked --release -p lab "${quick[@]}")
    if report=$("$CARGO_TARGET_DIR/release/lab" simulate --seeds "$seeds" --json 2>/dev/null); then
        printf '%-32s NOT FOUND in %s seeds\n' "$name" "$seeds"
        missed=$((missed + 1))
    else
        first=$(sed -n 's/.*"failing_seeds":\[\([0-9][0-9]*\).*/\1/p' <<<"$report")
        # A simulator that does not run finds nothing.
        if [ -z "$first" ]; then
            printf '%-32s NOT RUN: the simulator failed without a failing seed\n' "$name"
            missed=$((missed + 1))
            continue
        fi
        printf '%-32s found at seed %s (within %s)\n' "$name" "$first" "$seeds"
    fi
done
[ "$missed" -eq 0 ]
