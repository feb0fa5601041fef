#!/usr/bin/env bash
# What the shipped binaries (coordinator, executor-shard) depend on. Needs no network beyond the registry.
#
# Usage: scripts/dependencies.sh bom    a bill of materials, CycloneDX 1.5 JSON, on standard output
#        scripts/dependencies.sh table  the crates that run code at build time, link native libraries or have
#                                       unsafe code, by publisher, as Markdown (docs/dependencies.md)
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
bom) set -- bom Cargo.lock ;;
table) set -- table ;;
*)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '/^set /d'
    case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
    ;;
esac
host=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --format-version 1 --locked --filter-platform "$host" |
    cargo run --locked --release -q -p shard-tests --bin dependencies -- "$@"
