#!/usr/bin/env bash
# All checks: format, lints, every test, EELS as a second oracle where Python is there, and cargo-deny
# where it is installed.
# One build profile (release) throughout: the EVM is too slow to test without optimisation.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n=== %s\n' "$*"; }

step "format"
cargo fmt --all -- --check

step "lints (warnings are errors)"
cargo clippy --locked --release --workspace --all-targets -- -D warnings

step "binaries"
cargo build --locked --release --bins

step "tests"
cargo test --locked --release --workspace

step "EELS, the independent referee (skipped without Python 3.11)"
scripts/eels.sh

if command -v cargo-deny >/dev/null 2>&1; then
    step "cargo deny"
    cargo deny --log-level error check bans licenses sources
    if cargo deny --log-level off fetch db >/dev/null 2>&1; then
        cargo deny --log-level error check advisories
    else
        echo "the advisory database cannot be fetched: advisories were not checked"
    fi
else
    echo "cargo-deny is not installed: licences and advisories were not checked"
fi

step "all checks passed"
