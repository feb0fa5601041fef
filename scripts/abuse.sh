#!/usr/bin/env bash
# What attacks cost an honest client: real processes without TLS, one attack after the other, each on a fleet of its
# own. Prints a table, and fails if an attack makes blocks twice as slow as two busy processes do, loses a shard, or
# leaves memory behind. Takes about half a minute for each attack.
#
# Usage: scripts/abuse.sh [--seconds N] [--only ATTACK,…] [--json]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --release --workspace --bins
exec target/release/abuse "$@"
