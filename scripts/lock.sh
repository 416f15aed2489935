#!/bin/sh
# Compiles the lock files from pyproject.toml: every package with its exact version and the hashes of its files, for
# all platforms. A version that is locked stays; `--upgrade` takes the newest of all packages, `--upgrade-package NAME`
# of one.
#
# The files are layers: requirements.txt is the product, requirements-embedded.txt and requirements-dev.txt hold what
# they add to it. requirements-bench.txt is for an environment of its own, and complete.
#
# usage: scripts/lock.sh [--upgrade | --upgrade-package NAME …]
set -eu

cd "$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)"

base=requirements.txt
# The layers compiled so far: what is in two of them has one version.
layers=
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# compile FILE [OPTION …]: of the project with these extras, or of a group alone
compile() {
    lock=$1
    shift
    # Without the addresses of the indexes: each installation uses its own.
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links "$@" --output-file "$lock"
}

# compile_layer FILE [OPTION …]: the same, less what is in requirements.txt with the same version and condition
compile_layer() {
    layer=$1
    shift
    # Its versions, without their hashes: uv takes those for an order to know no other package.
    # shellcheck disable=SC2086
    sed -n 's/^\([A-Za-z0-9].*==.*[^ ]\) *\\$/\1/p' "$base" $layers >"$work/versions"
    if [ -e "$layer" ]; then
        cp "$layer" "$work/complete"
    fi
    compile "$work/complete" pyproject.toml --constraint "$work/versions" "$@"
    awk '
        # An entry is a line with a name and the lines of its hashes.
        /^[A-Za-z0-9]/ { entry = $0; if (FILENAME == ARGV[1]) { known[entry] = 1 } }
        FILENAME == ARGV[2] && !(entry in known)
    ' "$base" "$work/complete" >"$work/layer"
    rm "$work/complete"
    cp "$work/layer" "$layer"
    layers="$layers $layer"
}

compile "$base" pyproject.toml "$@"
compile_layer requirements-embedded.txt --extra embedded "$@"
compile_layer requirements-dev.txt --extra dev "$@"
compile requirements-bench.txt --group bench "$@"
