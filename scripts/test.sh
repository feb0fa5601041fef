#!/usr/bin/env bash
# All checks: format, lints, every test, EELS as a second oracle where Python is there, and cargo-deny
# where it is installed.
# One build profile (release) throughout: the EVM is too slow to test without optimisation.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n=== %s\n' "$*"; }

# Tests that need recorded data are skipped where it is missing, and cargo does not show what a passing
# test says. So it is said here, at the start and at the end. Under CI (CI=true) it is an error.
data=${SHARDS_TEST_DATA:-../shared/data}
missing=()
for wanted in mainnet blockchain-tests.tar.xz eest-prague-osaka.tar.xz; do
    if [ ! -e "$data/$wanted" ] || { [ -d "$data/$wanted" ] && [ -z "$(ls -A "$data/$wanted")" ]; }; then
        missing+=("$data/$wanted")
    fi
done

say_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    {
        echo
        echo "!!! SKIPPED: the tests that need this data, which is not there or empty:"
        printf '!!!   %s\n' "${missing[@]}"
        echo "!!! Set SHARDS_TEST_DATA to the folder that has it."
    } >&2
}

say_missing
if [ ${#missing[@]} -gt 0 ] && [ "${CI:-}" = true ]; then
    echo "!!! Under CI a test without its data fails." >&2
    exit 1
fi

step "format"
cargo fmt --all -- --check

step "lints (warnings are errors)"
cargo clippy --locked --release --workspace --all-targets -- -D warnings

step "dependencies of each room"
scripts/deps.sh

step "documentation (warnings are errors)"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps --quiet

step "binaries"
cargo build --locked --release --bins

step "tests"
cargo test --locked --release --workspace

step "tests of the scheduler with its own checks (debug assertions)"
cargo test --locked --release --config 'profile.release.package.schedule.debug-assertions=true' -p schedule --lib

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

say_missing
step "all checks passed"
