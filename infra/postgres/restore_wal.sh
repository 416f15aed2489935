#!/bin/sh
# Fetches one WAL file from the repositories: PostgreSQL's restore_command.
#
# usage: restore_wal.sh CONFIG replica|recovery NAME TARGET [DIRECTORY]
#
# archive-get hands out whatever can be decompressed. What it gives is compared here with the checksum that the
# repository has in the file's name, and with the place in the WAL that the segment says it has; what does not fit is
# asked of each repository by itself.
#
# Exit code 1 means that the file is not there, which is how a recovery comes to the end of the WAL. PostgreSQL takes every
# other code up to 125 for the same, so a damaged segment would pass for the end: in a recovery any other failure
# becomes 126, at which PostgreSQL stops. A replica asks its primary instead, so for it any failure is 1.
# DIRECTORY is the pg_wal of a primary that is down: it has what was not archived any more.
set -u
# An error of the shell itself must not look like the end of the WAL either.
trap 'code=$?; case $code in 0 | 1 | 126) ;; *) exit 126 ;; esac' EXIT

config=$1
purpose=$2
name=$3
target=$4
directory=${5:-}

not_there=1
damaged=126

repositories=1
if grep -q '^repo2-' "$config"; then
    repositories='1 2'
fi

ask() { pgbackrest --config="$config" --stanza=oltp "$@"; }

# Histories have no checksum.
is_segment() {
    case $name in
        *[!0-9A-F]*) return 1 ;;
    esac
    [ ${#name} = 24 ]
}

is_in_its_place() {
    [ -s "$target" ] || return 1
    begins=$(($(od -An -j8 -N8 -tu8 "$target")))
    number=${name#????????}
    [ "$begins" = $(((0x${number%????????} << 32) + 0x${number#????????} * $(wc -c <"$target"))) ]
}

has_its_checksum() {
    sum=$(sha1sum "$target" 2>/dev/null || shasum "$target")
    for repository in $repositories; do
        for archive in $(ask --repo="$repository" --filter='^[0-9.]+-[0-9]+$' repo-ls archive/oltp); do
            if ask --repo="$repository" --filter="^$name-${sum%% *}" repo-ls "archive/oltp/$archive/${name%????????}" |
                grep -q .; then
                return 0
            fi
        done
    done
    return 1
}

fetch() { # OPTION OF PGBACKREST...
    ask "$@" archive-get "$name" "$target"
    code=$?
    if [ "$code" = 0 ] && is_segment && ! { is_in_its_place && has_its_checksum; }; then
        echo "$name in the archive${1:+ ($1)} is damaged, or has the content of another segment" >&2
        rm -f "$target"
        code=$damaged
    fi
}

fetch
if [ "$code" != 0 ] && [ "$code" != "$not_there" ] && [ "$repositories" != 1 ]; then
    for number in $repositories; do
        fetch --repo="$number"
        [ "$code" != 0 ] || exit 0
    done
    # One of them has it, and not as it was written.
    code=$damaged
fi
if [ "$code" != 0 ] && [ -n "$directory" ] && [ -f "$directory/$name" ]; then
    cp "$directory/$name" "$target.incoming" && mv "$target.incoming" "$target" || exit 126
    exit 0
fi
case $code in
    0 | "$not_there") exit "$code" ;;
esac
[ "$purpose" = replica ] || exit 126
exit 1
