#!/bin/sh
# Archives one WAL segment: PostgreSQL's archive_command.
#
# usage: archive_wal.sh PATH_OF_SEGMENT ARCHIVE_DIRECTORY
#
# Written to a temporary name, synced, renamed: the archive never holds half a segment. A segment that is there
# already is accepted when it is the same and refused when it differs; nothing is ever overwritten. Any failure is
# a non-zero exit, which makes PostgreSQL keep the segment and try again.
set -eu

segment=$1
archive=$2
target="$archive/$(basename "$segment").gz"

if [ -e "$target" ]; then
    if gzip -dc "$target" | cmp -s - "$segment"; then
        exit 0
    fi
    echo "archive_wal: $target exists with other content; refusing to overwrite it" >&2
    exit 1
fi

temporary=$(mktemp "$archive/.incoming.XXXXXX")
trap 'rm -f "$temporary"' EXIT
gzip -1 -c "$segment" >"$temporary"
sync "$temporary"
# A hard link fails when the name exists; a rename would overwrite it.
ln "$temporary" "$target"
sync "$archive"
