#!/usr/bin/env bash
# Feeds every decoder that a peer or a file can reach with hostile bytes: messages, work, results, state, blocks,
# payloads, files, texts. Fails if one panics, allocates far more than it was given, or takes long; its input is then
# kept in tests/hostile/corpus, which `cargo test` tries from then on. By default up to a minute for each of 28.
#
# Usage: scripts/hostile.sh [--guided] [--executions N] [--seconds S] [--seed SEED] [--only TEXT] [--json]
#   --guided  the crates that decode are compiled with counters of their branches, and inputs that reach new code are
#             changed further. They are kept in target/guided/corpus, and the next guided run begins with them
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
if [ "${1:-}" != --guided ]; then
    cargo build --locked --release --workspace --bin hostile
    exec "$target/release/hostile" "$@"
fi
shift
# Beside the usual files in the same folder: only the workspace's crates are compiled again.
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/hostile/instrument.sh cargo build --locked --release --workspace --bin hostile
mkdir -p "$target/guided"
cp "$target/release/hostile" "$target/guided/hostile"
exec "$target/guided/hostile" --corpus "$target/guided/corpus" "$@"
