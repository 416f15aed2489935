#!/bin/sh
# Compiles the lock files from pyproject.toml: every package with its exact version and the hashes of its files, for
# all platforms. A version that is locked stays; `--upgrade` takes the newest of all packages, `--upgrade-package NAME`
# of one.
#
# usage: scripts/lock.sh [--upgrade | --upgrade-package NAME …]
set -eu

cd "$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)"

# compile FILE [OPTION …]: of the project with these extras, or of a group alone
compile() {
    lock=$1
    shift
    # Without the addresses of the indexes: whoever installs uses his own.
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links "$@" --output-file "$lock"
}

compile requirements.txt pyproject.toml "$@"
compile requirements-dev.txt pyproject.toml --extra dev "$@"
compile requirements-embedded.txt pyproject.toml --extra embedded "$@"
compile requirements-bench.txt --group bench "$@"
