#!/usr/bin/env bash
# Feeds every decoder that a peer or a file can reach with hostile bytes: messages, work, results, state, blocks,
# payloads, files, texts. Fails if one panics, allocates far more than it was given, or takes long; its input is then
# kept in tests/hostile/corpus, which `cargo test` tries from then on. By default up to a minute for each of 28.
#
# Usage: scripts/hostile.sh [--executions N] [--seconds S] [--seed SEED] [--only TEXT] [--json]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --release --package hostile
exec target/release/hostile "$@"
