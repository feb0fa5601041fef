#!/usr/bin/env bash
# The tests of real processes, many times over, on a machine that has other work: busy loops run
# beside them and take half of the processor time and more. A test that fails only now and then, or
# only when the machine is busy, is found here. `scripts/test.sh` runs each test once on an idle machine.
#
# Usage: scripts/busy.sh [ROUNDS [LOOPS [TEST...]]]
#   ROUNDS  how often each test runs          (default: 20)
#   LOOPS   busy loops beside them            (default: 4)
#   TEST    files in tests/tests, without .rs (default: all but `suite`, which has no clock)
# SHARDS_BIN_DIR has the tests use the binaries in that folder.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
rounds=${1:-20}
loops=${2:-4}
shift $(($# < 2 ? $# : 2))
tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
    for path in tests/tests/*; do
        name=$(basename "$path" .rs)
        [ "$name" = suite ] || tests+=("$name")
    done
fi

scratch=$(mktemp -d)
busy=()
cleanup() {
    [ ${#busy[@]} -eq 0 ] || kill "${busy[@]}" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

# Everything is built first and copied: a build beside the rounds changes nothing of what they run.
if [[ -z ${SHARDS_BIN_DIR:-} ]]; then
    cargo build --locked --release --workspace --bins
    target=$(cargo metadata --format-version 1 --no-deps --offline |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    for path in "$target"/release/*; do
        if [ -f "$path" ] && [ -x "$path" ]; then cp "$path" "$scratch/"; fi
    done
    export SHARDS_BIN_DIR=$scratch
fi
for name in "${tests[@]}"; do
    built=$(cargo test --locked --release -p shard-tests --test "$name" --no-run 2>&1 |
        sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
    cp "$built" "$scratch/test-$name"
done

for _ in $(seq "$loops"); do
    while :; do :; done &
    busy+=($!)
done

failed=0
cd tests # where cargo starts the tests of this package
for round in $(seq "$rounds"); do
    began=$SECONDS
    for name in "${tests[@]}"; do
        if ! "$scratch/test-$name" >"$scratch/said" 2>&1; then
            failed=$((failed + 1))
            printf '== round %s: %s failed\n' "$round" "$name"
            cat "$scratch/said"
        fi
    done
    printf 'round %s of %s: %s s, %s failures so far\n' \
        "$round" "$rounds" $((SECONDS - began)) "$failed"
done
[ "$failed" -eq 0 ]
