#!/usr/bin/env bash
# A wrapper of rustc (RUSTC_WORKSPACE_WRAPPER) that has the crates which decode counted by LLVM's SanitizerCoverage.
# `hostile` is one of them: generic decoders are compiled where they are used. All other crates are compiled as usual. `scripts/hostile.sh --guided` uses it.
set -euo pipefail

rustc=$1
shift
name=
for ((at = 1; at < $#; at++)); do
    if [ "${!at}" = --crate-name ]; then
        next=$((at + 1))
        name=${!next}
    fi
done
case $name in
common | proto | net | ledger | schedule | engine | executor_shard | coordinator | hostile)
    exec "$rustc" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    ;;
*) exec "$rustc" "$@" ;;
esac
