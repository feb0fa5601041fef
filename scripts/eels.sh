#!/usr/bin/env bash
# The second oracle: EELS, Ethereum's executable specification, judges random and hand-made blocks on
# every fork; the real binary must come to the same verdicts, gas, receipts roots and state roots.
#
#   scripts/eels.sh                          360 random blocks and 160 hand-made cases: about a minute
#   scripts/eels.sh --soak                   5,400 random blocks and every hand-made case, in every way
#   scripts/eels.sh --blocks 1000 --seed 7   other random blocks
#   scripts/eels.sh --help                   all options
#
# It makes a Python environment beside the binaries (target/eels/venv) with what
# tests/eels/requirements.txt names, and needs Python 3.11 or later for it. Without Python or the
# package it says that it was skipped; with EELS_REQUIRED=true that is a failure.
# EELS_PYTHON names a Python that has the package, SHARDS_BIN_DIR a folder with a built coordinator.
# The files of blocks that are judged differently stay in target/eels/failed.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$root"

skip() {
    echo "=== EELS: SKIPPED: $1" >&2
    if [[ ${EELS_REQUIRED:-} == true ]]; then
        echo "=== EELS: EELS_REQUIRED=true, so this is a failure" >&2
        exit 1
    fi
    exit 0
}

target=$(cargo metadata --format-version 1 --no-deps --offline 2>/dev/null |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p') || target=
target=${target:-$root/target}
home=$target/eels

# A Python that has the packages, made if it is not there yet or if the packages have changed.
environment() {
    local python candidate wanted
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    [[ -n ${python:-} ]] || skip "no Python 3.11 or later was found"
    wanted=$root/tests/eels/requirements.txt
    cmp -s -- "$wanted" "$home/installed.txt" && return
    echo "=== EELS: making a Python environment in $home/venv"
    rm -rf -- "$home/venv" "$home/installed.txt"
    mkdir -p -- "$home"
    "$python" -m venv "$home/venv" || skip "Python can't make a virtual environment (is its venv module there?)"
    "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" ||
        skip "the packages of $wanted can't be installed"
    cp -- "$wanted" "$home/installed.txt"
}

if [[ -z ${EELS_PYTHON:-} ]]; then
    environment
    EELS_PYTHON=$home/venv/bin/python
fi

if [[ -n ${SHARDS_BIN_DIR:-} ]]; then
    binary=$SHARDS_BIN_DIR/coordinator
else
    cargo build --locked --release --bin coordinator --bin lab
    binary=$target/release/coordinator
fi

PYTHONPATH=$root/tests exec "$EELS_PYTHON" -m eels --binary "$binary" --folder "$home/failed" "$@"
