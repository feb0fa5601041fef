#!/usr/bin/env bash
# Simulated histories of the failure model, as many as asked for, on all cores. Ends with 1 and the
# command that replays it when a history violates an invariant.
#   scripts/soak-simulator.sh [--seeds N] [--seed FIRST] [--jobs J] [--json]
set -euo pipefail
cd "$(dirname "$0")/.."

case " $* " in
    *" --seeds "* | *" --seeds="*) ;;
    *) set -- --seeds 1000000 "$@" ;;
esac
cargo build --locked --release --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/release/coordinator" simulate "$@"
