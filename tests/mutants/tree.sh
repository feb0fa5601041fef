# A copy of the sources to plant mistakes in, for scripts/mutants.sh and scripts/mutants-sim.sh, which set
# `root` (the sources) and `tree` (the copy).
# shellcheck shell=bash

# Brings the copy back to the sources. A file that differs gets a new time, so that cargo builds it again; the
# others keep theirs, so that cargo does not.
fresh_tree() {
    mkdir -p -- "$tree"
    local file files
    files=$(git -C "$root" ls-files --cached --others --exclude-standard)
    while IFS= read -r file; do
        [ -f "$root/$file" ] || continue
        cmp -s -- "$root/$file" "$tree/$file" && continue
        mkdir -p -- "$tree/$(dirname "$file")"
        cp -- "$root/$file" "$tree/$file"
    done <<<"$files"
    find "$tree" -name '*.rs' -printf '%P\n' | while IFS= read -r file; do
        [ -f "$root/$file" ] || rm -- "$tree/$file"
    done
    find "$tree" \( -name '*.orig' -o -name '*.rej' \) -delete
}
