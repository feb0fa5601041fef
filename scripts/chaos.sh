#!/usr/bin/env bash
# Chaos: real processes, proxies between them, and faults at random moments while blocks are executed.
# At the end alloy-evm's executor confirms head and state root of every chain.
#
#   scripts/chaos.sh [--minutes M] [--seed S] [--shards N] [--blocks N] [--json]
#       M minutes under faults (default: 10; chains are generated and checked besides), drawn from
#       the seed (default: one made of the date), on N shards (3), in chains of N blocks (3000)
#
# Exit code 0 only if nothing was found. Otherwise the ends of all logs are printed, and the folder
# with the logs is kept in SHARDS_TEST_LOGS (default: chaos-logs beside the binaries' folder).
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
-h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

target=$(cargo metadata --format-version 1 --no-deps --offline 2>/dev/null |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
target=${target:-$PWD/target}
export SHARDS_TEST_LOGS=${SHARDS_TEST_LOGS:-$target/chaos-logs}

seeded=no
for option in "$@"; do
    case $option in
    --seed | --seed=*) seeded=yes ;;
    esac
done
# Other seeds every day, far apart, so that runs do not repeat one another.
[ "$seeded" = yes ] || set -- --seed "$(date +%Y%m%d%H%M%S)" "$@"

cargo build --locked --release --bins >&2
echo "== chaos $*" >&2
"$target/release/chaos" "$@"
