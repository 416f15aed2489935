#!/bin/sh
# Fetches one WAL file from the archives: PostgreSQL's restore_command.
#
# usage: restore_wal.sh NAME TARGET DIRECTORY...
#
# The first directory that has it serves, compressed (an archive) or as it is (the pg_wal of a server that is down).
# Exit code 1 says that none has it, which is how a recovery comes to the end of the WAL.
set -eu

name=$1
target=$2
shift 2

for directory in "$@"; do
    if [ -f "$directory/$name.gz" ]; then
        gzip -dc "$directory/$name.gz" >"$target.incoming" || continue
    elif [ -f "$directory/$name" ]; then
        cp "$directory/$name" "$target.incoming" || continue
    else
        continue
    fi
    mv "$target.incoming" "$target"
    exit 0
done
exit 1
