#!/usr/bin/env bash
# Are there known vulnerabilities in the dependencies? Asks cargo-deny, with RustSec's database of advisories.
#
# Usage: scripts/advisories.sh              with the database from the network, fetched anew
#        scripts/advisories.sh export FILE  fetches the database and packs it, for machines without network
#        scripts/advisories.sh check FILE   with a packed database, without network; says how old it is
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '/^set /d'
}
case ${1:-fetch} in
-h | --help) usage && exit 0 ;;
fetch) [ $# -eq 0 ] || { usage >&2 && exit 2; } ;;
export | check) [ $# -eq 2 ] || { usage >&2 && exit 2; } ;;
*) usage >&2 && exit 2 ;;
esac
command -v cargo-deny >/dev/null || {
    echo "cargo-deny is not installed: cargo install --locked cargo-deny" >&2
    exit 2
}

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
# The same rules, with the database in a folder of this run, fetched by git with its settings.
config=$scratch/deny.toml
mkdir "$scratch/db"
sed "s|^\[advisories\]\$|&\ndb-path = \"$scratch/db\"\ngit-fetch-with-cli = true|" deny.toml >"$config"
deny() { cargo deny --log-level error --config "$config" "$@"; }

case ${1:-fetch} in
fetch) deny check advisories ;;
export)
    deny fetch db
    tar -C "$scratch/db" -czf "$2" .
    echo "written: $2" >&2
    ;;
check)
    if [ ! -f "$2" ]; then
        echo "$2 is no file: scripts/advisories.sh export $2 makes one where there is a network" >&2
        exit 2
    fi
    echo "the database was packed at $(date -u -r "$2" '+%Y-%m-%d %H:%M') UTC" >&2
    tar -C "$scratch/db" -xzf "$2"
    deny --offline check advisories
    ;;
esac
