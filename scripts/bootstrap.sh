#!/bin/sh
# Puts the project's locked dependencies into its own environment, .venv. Quick when there is nothing to do.
#
# usage: scripts/bootstrap.sh [runtime|dev]
#
# PYTHON names the interpreter to use (default: the newest python3 of version 3.11 or later on the PATH).
set -eu

kind=${1:-runtime}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"

case $kind in
    runtime) lock=requirements.txt ;;
    dev) lock=requirements-dev.txt ;;
    *)
        echo "bootstrap: expected runtime or dev, found '$kind'" >&2
        exit 2
        ;;
esac

# dev contains runtime, so an environment that has dev never needs runtime.
stamp=.venv/.installed
wanted=$(cksum "$lock" | cut -d' ' -f1,2)
if [ -x .venv/bin/python ] && [ -f "$stamp" ]; then
    for have in "$lock" requirements-dev.txt; do
        if grep -qxF "$have $(cksum "$have" | cut -d' ' -f1,2) $root" "$stamp"; then
            exit 0
        fi
    done
fi

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
if [ -z "$python" ]; then
    echo "bootstrap: Python 3.11 or later is needed and was not found on the PATH." >&2
    echo "Install it (Debian: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python3 make up" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "bootstrap: PYTHON is $python, which is $("$python" --version); 3.11 or later is needed." >&2
    exit 1
fi

echo "installing the locked dependencies ($kind) into .venv" >&2
if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    rm -rf .venv
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        echo "bootstrap: $python cannot make an environment (Debian: apt-get install python3-venv)." >&2
        exit 1
    fi
fi
rm -f "$stamp"
quiet=
[ -t 2 ] || quiet=--quiet
# shellcheck disable=SC2086
.venv/bin/python -m pip install $quiet --disable-pip-version-check --require-hashes --no-deps -r "$lock" >&2
# `python -m eds` finds the package wherever it is called from.
purelib=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$root/scripts" >"$purelib/eds.pth"
echo "$lock $wanted $root" >"$stamp"
