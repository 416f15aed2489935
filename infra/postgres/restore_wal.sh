#!/bin/sh
# Fetches one WAL file from the repository: PostgreSQL's restore_command.
#
# usage: restore_wal.sh CONFIG replica|recovery NAME TARGET [DIRECTORY]
#
# Exit code 1 means that the file is not there, which is how a recovery comes to the end of the WAL. PostgreSQL takes every
# other code up to 125 for the same, so a damaged segment would pass for the end: in a recovery any other failure
# becomes 126, at which PostgreSQL stops. A replica asks its primary instead, so for it any failure is 1.
# DIRECTORY is the pg_wal of a primary that is down: it has what was not archived any more.
set -u

config=$1
purpose=$2
name=$3
target=$4
directory=${5:-}

pgbackrest --config="$config" --stanza=oltp archive-get "$name" "$target"
code=$?
case $code in
    0) exit 0 ;;
    1) ;;
    *)
        [ "$purpose" = replica ] || exit 126
        exit 1
        ;;
esac
if [ -n "$directory" ] && [ -f "$directory/$name" ]; then
    cp "$directory/$name" "$target.incoming" && mv "$target.incoming" "$target" || exit 126
    exit 0
fi
exit 1
