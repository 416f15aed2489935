#!/usr/bin/env bash
# Health check of a PostgreSQL server in its container: exit code 0 when it does its duty.
#
# usage: health.sh primary|warehouse|replica NAME_OF_THE_SUPERUSERS_SECRET
#
# primary, warehouse: it accepts a log-in by TCP and takes writes. replica: it is in recovery and streams.
set -euo pipefail

case $1 in
    replica) duty="pg_is_in_recovery() and exists (select from pg_stat_wal_receiver where status = 'streaming')" ;;
    *) duty='not pg_is_in_recovery()' ;;
esac
PGPASSWORD=$(cat "/run/secrets/$2")
export PGPASSWORD PGCONNECT_TIMEOUT=5
answer=$(psql --host=127.0.0.1 --port=5432 --username=postgres --dbname=postgres -XAtqc "select $duty")
if [ "$answer" != t ]; then
    echo "it answers, but is not doing its duty as $1: $duty is not true"
    exit 1
fi
