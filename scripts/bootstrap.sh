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

# The lock files are layers: requirements-dev.txt holds what development adds.
locks_of() { # KIND
    case $1 in
        runtime) echo requirements.txt ;;
        dev) echo requirements.txt requirements-dev.txt ;;
    esac
}
locks=$(locks_of "$kind")
if [ -z "$locks" ]; then
    echo "bootstrap: expected runtime or dev, found '$kind'" >&2
    exit 2
fi

# The stamp says what was installed, and where: programs of an environment know its path, so it cannot be moved.
stamp=.venv/.installed
installed() { # KIND: the stamp of an environment that has the locked packages of this kind
    # shellcheck disable=SC2046
    printf '%s %s %s\n' "$1" "$(cat $(locks_of "$1") | cksum | cut -d' ' -f1,2)" "$root"
}
wanted=$(installed "$kind")
if [ -x .venv/bin/python ] && [ -f "$stamp" ]; then
    # dev contains runtime, so an environment that has dev never needs runtime.
    for have in "$wanted" "$(installed dev)"; do
        if grep -qxF "$have" "$stamp"; then
            exit 0
        fi
    done
fi

case $root in
    *[:\"\$\`\\]*)
        echo "bootstrap: the path of this checkout has one of : \" \$ \` \\ in it, which Python's environments cannot have:" >&2
        printf '%s\nMove the checkout to a path without them.\n' "$root" >&2
        exit 1
        ;;
esac
if ! { mkdir -p .state && [ -w . ] && [ -w .state ]; }; then
    echo "bootstrap: $root cannot be written by this account. Make it writable, or use a checkout of your own." >&2
    exit 1
fi

# One at a time. A link is made or refused in one step, and says whose it is; one that was left by a killed process is
# taken over.
busy=.state/bootstrap.lock
at_work() { # PROCESS: whether it lives and, where the system tells, is a bootstrap and not another that got its number
    [ "$1" -gt 0 ] && kill -0 "$1" 2>/dev/null && { ! [ -r "/proc/$1/cmdline" ] || grep -q bootstrap "/proc/$1/cmdline"; }
}
until ln -s "$$" "$busy" 2>/dev/null; do
    holder=$(readlink "$busy" || echo 0)
    if at_work "$holder"; then
        echo "bootstrap: another one is working on .venv (process $holder). Wait until it is done." >&2
        exit 1
    fi
    rm -f "$busy"
done
trap 'rm -f "$busy"; rmdir .state 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

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
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    version=$("$python" --version 2>/dev/null || echo "no Python that runs")
    echo "bootstrap: PYTHON is $python, which is $version; 3.11 or later is needed." >&2
    exit 1
fi

echo "installing the locked dependencies ($kind) into .venv" >&2
made_for=$(cat .venv/.made-for 2>/dev/null || sed -n '1s/^[^ ]* [0-9]* [0-9]* //p' "$stamp" 2>/dev/null || true)
if [ "$made_for" != "$root" ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    rm -rf .venv
    if ! "$python" -m venv .venv >&2; then
        rm -rf .venv
        echo "bootstrap: $python cannot make an environment (Debian: apt-get install python3-venv)." >&2
        exit 1
    fi
    printf '%s\n' "$root" >.venv/.made-for
fi
rm -f "$stamp"
set --
for lock in $locks; do
    set -- "$@" -r "$lock"
done
# What Python compiles of them is compiled afterwards, by all cores.
install_packages() { # OPTION… of pip
    PIP_USER=0 .venv/bin/python -m pip install --disable-pip-version-check --require-hashes --no-deps --no-compile "$@"
}
# pip says some lines for each package. In a terminal they become one, which counts; elsewhere it says what goes wrong.
counted() {
    # shellcheck disable=SC2086
    awk -v all="$(cat $locks | grep -c '==')" '
        /^(Collecting|Processing|Requirement already satisfied)/ { printf "\r  %d of %d packages\r", ++n, all; fflush() }
        /^Installing collected/ { printf "\r  unpacking %d packages\r", n; fflush() }
        END { printf "\r%40s\r", "" }'
}
failed=.venv/.failed
rm -f "$failed"
if [ -t 2 ]; then
    { install_packages "$@" || : >"$failed"; } | counted >&2
else
    install_packages --quiet "$@" >&2 || : >"$failed"
fi
if [ -e "$failed" ]; then
    rm -f "$failed"
    echo "bootstrap: the dependencies could not be installed, see above. The next try resumes from here." >&2
    exit 1
fi
purelib=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# A package may bring files of other Pythons, which do not compile and are never read.
.venv/bin/python -m compileall -q -j 0 "$purelib" >/dev/null 2>&1 || true
# `python -m eds` finds the package wherever it is called from.
printf '%s\n' "$root/scripts" >"$purelib/eds.pth"
printf '%s\n' "$wanted" >"$stamp"
