#!/usr/bin/env bash
# Long runs, until a bound or a difference is reached. What is run is named by an option:
#
#   scripts/soak.sh [--seeds N] [--seed FIRST] [--jobs J]
#       simulated histories of the failure model, on all cores (default: one million)
#   scripts/soak.sh --fuzz [--transactions N] [--minutes M] [--seed N]
#       the differential fuzzer: this system against alloy-evm on random programs
#       (default: one million transactions, beginning at a seed made of the date)
#
# Further options go to the command that is run. Exit code 0 only if nothing was found.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit "$1"
}

what=simulate
case ${1:-} in
--fuzz) what=fuzz && shift ;;
-h | --help) usage 0 ;;
esac

target=$(cargo metadata --format-version 1 --no-deps --offline 2>/dev/null |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
bin=${target:-target}/release/lab

soak_fuzz() {
    cargo build --locked --release -p lab
    local bounded=no seeded=no option
    for option in "$@"; do
        case $option in
        --transactions* | --minutes* | --seeds*) bounded=yes ;;
        --seed | --seed=*) seeded=yes ;;
        esac
    done
    [ "$bounded" = yes ] || set -- --transactions 1000000 "$@"
    # Other seeds every day, far apart, so that soaks do not repeat one another.
    [ "$seeded" = yes ] || set -- --seed "$(date +%Y%m%d)000000" "$@"
    echo "== lab fuzz $*"
    "$bin" fuzz "$@"
}

soak_simulate() {
    cargo build --locked --release -p lab
    case " $* " in
    *" --seeds "* | *" --seeds="*) ;;
    *) set -- --seeds 1000000 "$@" ;;
    esac
    echo "== lab simulate $*"
    "$bin" simulate "$@"
}

"soak_$what" "$@"
