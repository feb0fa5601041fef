#!/usr/bin/env bash
# Does any test notice when a rule is left out? Plants every mistake of tests/mutants/rules, each behind
# a switch, builds once, and prints which test finds each. Exit code 1 if one is not found.
#
#   scripts/mutants-rules.sh                   all of them
#   scripts/mutants-rules.sh transfer header   those with one of these words in their names or files
#   scripts/mutants-rules.sh --help            the options: seeds, suites, a further referee
set -euo pipefail
cd "$(dirname "$0")/.."
exec nice cargo run --quiet --release --locked --package shard-tests --bin rule-mutants -- "$@"
