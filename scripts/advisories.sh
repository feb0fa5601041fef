#!/usr/bin/env bash
# Are there known vulnerabilities in the dependencies? Asks cargo-deny, with RustSec's database of advisories.
#
# Usage: scripts/advisories.sh              with the database from the network, fetched anew
#        scripts/advisories.sh export FILE  fetches the database and packs it, for machines without network
#        scripts/advisories.sh check FILE   with a packed database, without network; says how old it is
set -euo pipefail

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '/^set /d'
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

# The caller's path, before the folder changes.
file=${2:+$(realpath -m -- "$2")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
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
    date -u '+%Y-%m-%d %H:%M UTC' >"$scratch/packed-at"
    tar -C "$scratch" -czf "$file" packed-at db
    echo "written: $file" >&2
    ;;
check)
    if [ ! -f "$file" ]; then
        echo "$file is no file: scripts/advisories.sh export $file makes one where there is a network" >&2
        exit 2
    fi
    tar -C "$scratch" -xzf "$file" packed-at db
    echo "the database was packed at $(cat "$scratch/packed-at")" >&2
    deny --offline check advisories
    ;;
esac
