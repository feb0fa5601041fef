#!/usr/bin/env bash
# Makes a release archive of the last commit, the same bytes wherever it is made with the same compilers.
#
# Usage: scripts/release.sh          the archive, its bill of materials and their checksums, in target/archives
#        scripts/release.sh --twice  makes it in two folders of different paths, and compares the bytes
#
# The archive has the binaries coordinator and executor-shard, the documents, the licences and a bill of materials
# (CycloneDX). It is built from a clone of the last commit, so uncommitted changes are not in it.
set -euo pipefail

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '/^set /d'
}
case ${1:-} in
'' | --twice) ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
if ! git diff --quiet HEAD --; then
    echo "the tree has changes that are not committed: they will not be in the archive" >&2
fi
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=shard-execution-$version-$host
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
scratch=$(mktemp -d -p "${TMPDIR:-/tmp}" release.XXXXXX)
trap 'rm -rf -- "$scratch"' EXIT

# Clones the last commit to a folder, builds there, and packs the archive into another folder.
make_archive() {
    local from=$1 to=$2 stage=$1/target/stage/$name
    git clone -q --no-hardlinks "$root" "$from"
    (
        cd "$from"
        # No path of this machine is left in the binaries.
        cargo_home=${CARGO_HOME:-$HOME/.cargo}
        export RUSTFLAGS="--remap-path-prefix=$from=/source --remap-path-prefix=$cargo_home=/cargo"
        export CFLAGS="-ffile-prefix-map=$from=/source -ffile-prefix-map=$cargo_home=/cargo"
        SHARDEXEC_COMMIT=$(git rev-parse HEAD)
        export SHARDEXEC_COMMIT
        cargo build --locked --release -p coordinator -p executor-shard --bins
        mkdir -p "$stage/bin"
        cp target/release/coordinator target/release/executor-shard "$stage/bin/"
        cp -r README.md CHANGELOG.md SECURITY.md LICENSE-APACHE LICENSE-MIT docs "$stage/"
        unset RUSTFLAGS CFLAGS
        CARGO_TARGET_DIR=$root/target scripts/dependencies.sh bom >"$stage/sbom.cdx.json"
    )
    mkdir -p "$to"
    tar -C "$from/target/stage" --sort=name --format=posix --pax-option=delete=atime,delete=ctime \
        --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go+u,go-w -cf - "$name" |
        gzip -9n >"$to/$name.tar.gz"
    cp "$stage/sbom.cdx.json" "$to/$name.cdx.json"
    (cd "$to" && sha256sum "$name.tar.gz" "$name.cdx.json" >"$name.sha256")
}

make_archive "$scratch/one" "$root/target/archives"
if [ "${1:-}" = --twice ]; then
    rm -rf "$scratch/one"
    make_archive "$scratch/another/place" "$scratch/archives"
    if ! cmp "$root/target/archives/$name.tar.gz" "$scratch/archives/$name.tar.gz"; then
        echo "the two archives differ" >&2
        exit 1
    fi
    echo "the two archives are equal" >&2
fi
cat "target/archives/$name.sha256"
