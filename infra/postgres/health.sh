#!/usr/bin/env bash
# Health check of a PostgreSQL server in its container: exit code 0 when it serves in its role.
#
# usage: health.sh warehouse|primary|replica1|replica2 NAME_OF_THE_SUPERUSERS_SECRET
#
# The warehouse and the noted primary: it accepts a log-in by TCP and takes writes. The others: it is in recovery and
# streams.
set -euo pipefail

if [ "$1" = warehouse ] || [ "$1" = "$(cat /etc/platform/current-primary)" ]; then
    part=primary condition='not pg_is_in_recovery()'
else
    part=replica condition="pg_is_in_recovery() and exists (select from pg_stat_wal_receiver where status = 'streaming')"
fi
PGPASSWORD=$(cat "/run/secrets/$2")
export PGPASSWORD PGCONNECT_TIMEOUT=5
answer=$(psql --host=127.0.0.1 --port=5432 --username=postgres --dbname=postgres -XAtqc "select $condition")
if [ "$answer" != t ]; then
    echo "it answers, but does not serve as $part: $condition is not true"
    exit 1
fi
