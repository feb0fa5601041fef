#!/usr/bin/env bash
# Does the fuzzer find mistakes? Plants each one in tests/mutants, alone, into a copy of the tree,
# builds the fuzzer and demands that it reports a difference within a bound of seeds.
#
#   scripts/mutants.sh                  all of them
#   scripts/mutants.sh no-wipe set-code those with these words in their names
#
# MUTANT_SEEDS is the bound (default 2000). The builds share target/mutants, so only the changed
# crates are built again, and those with less optimisation than a release has.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
bound=${MUTANT_SEEDS:-2000}
target=${MUTANT_TARGET_DIR:-$root/target/mutants}
copy=$(mktemp -d)
trap 'rm -rf -- "$copy"' EXIT
mkdir -p -- "$target"
# Cargo names crates by their folders: it has to be the same one every time, or all is built anew.
tree=$target/tree
# shellcheck source=tests/mutants/tree.sh
. tests/mutants/tree.sh

quick=()
for crate in lab coordinator schedule ledger executor-shard engine; do
    quick+=(--config "profile.release.package.$crate.opt-level=1" --config "profile.release.package.$crate.debug=0")
done

selected() {
    [ $# -eq 1 ] && return 0
    local name=$1 word
    shift
    for word in "$@"; do [[ $name == *"$word"* ]] && return 0; done
    return 1
}

rows=() missed=0
for patch in "$root"/tests/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    # Those of the simulator are scripts/mutants-sim.sh's.
    [[ $name == sim-* ]] && continue
    selected "$name" "$@" || continue
    echo "== $name" >&2
    sed -n 's/^Mistake: /   /p' "$patch" >&2
    fresh_tree
    if ! patch --directory "$tree" --strip 1 --fuzz 0 --quiet <"$patch"; then
        echo "$patch does not apply any more: plant the mistake anew in the code as it is" >&2
        exit 2
    fi
    find "$tree" \( -name '*.orig' -o -name '*.rej' \) -delete
    if ! (cd "$tree" && CARGO_TARGET_DIR=$target nice cargo build --locked --release -p lab "${quick[@]}") 2>"$copy/build"; then
        tail -n 40 "$copy/build" >&2
        echo "the tree does not build with $patch" >&2
        exit 2
    fi
    code=0
    "$target/release/lab" fuzz --seed 1 --seeds "$bound" --json >"$copy/json" 2>"$copy/text" || code=$?
    field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$copy/json"; }
    figures="$(field seeds) | $(field blocks) | $(field seconds | cut -c1-5)"
    if [ "$code" -eq 1 ] && grep -q '"replay"' "$copy/json"; then
        rows+=("| $name | $(sed -n 's/.*DIFFERENCE in //p' "$copy/text" | head -n 1) | $figures |")
    else
        rows+=("| $name | **not found** (exit code $code) | $figures |")
        missed=$((missed + 1))
    fi
    echo "   ${rows[-1]}" >&2
done

echo "| mistake | found in | seeds | blocks | seconds |"
echo "|---|---|---:|---:|---:|"
printf '%s\n' "${rows[@]}"
if [ "$missed" -gt 0 ]; then
    echo "$missed mistakes were not found within $bound seeds" >&2
    exit 1
fi
