#!/usr/bin/env bash
# What each room may depend on, checked against `cargo tree`, and dependencies that are declared and not
# used. Needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
complain() {
    echo "$*" >&2
    failed=1
}

# room  what must not be in its dependency tree, with the reason
rooms=(
    "common tokio tokio-util clap tracing-subscriber tonic revm alloy-evm redb"
    "schedule tokio tokio-util clap tracing-subscriber tonic revm alloy-evm redb net tasks crossbeam-channel mio"
    "engine tokio clap tonic net tasks"
    "ledger tokio clap tonic net tasks schedule coordinator"
    "executor-shard coordinator ledger schedule"
    "net engine executor-shard coordinator ledger schedule"
    "coordinator lab"
)
for room in "${rooms[@]}"; do
    read -r name forbidden <<<"$room"
    tree=$(cargo tree --locked --offline --package "$name" --edges normal --prefix none | awk '{print $1}' | sort -u)
    for crate in $forbidden; do
        if grep -qx -- "$crate" <<<"$tree"; then
            complain "$name depends on $crate: that is not a thing its room may know (see ARCHITECTURE.md)"
        fi
    done
done

# A declared dependency of which no source file of the crate uses a path or a macro, outside of comments. prost
# and tonic-prost are used by generated code only.
declared() { awk -v section="[$2]" '$0 == section {on=1; next} /^\[/ {on=0} on && /=/ {sub(/[. =].*/, ""); print}' "$1"; }
code=$(mktemp)
trap 'rm -f "$code"' EXIT
for manifest in $(git ls-files -- '*Cargo.toml'); do
    crate=$(dirname "$manifest")
    [ "$crate" = . ] && continue
    find "$crate" -name '*.rs' -exec grep -hvE '^ *//' {} + >"$code"
    for section in dependencies dev-dependencies build-dependencies; do
        for name in $(declared "$manifest" "$section"); do
            case $name in prost | tonic-prost) continue ;; esac
            word=${name//-/_}
            grep -qE "(^|[^a-zA-Z0-9_])($word(::|!)|use $word;)" "$code" ||
                complain "$manifest declares $name in [$section], and nothing in $crate uses it: remove it"
        done
    done
done

exit "$failed"
