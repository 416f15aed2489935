#!/bin/sh
# Lets Docker Compose read infra/compose.yaml: with no setting at all, and again with other names and places.
#
# usage: scripts/check_compose.sh
#
# A machine without Compose cannot look: a notice is printed, and it is no failure.
set -eu
cd "$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)"

if ! docker compose version >/dev/null 2>&1; then
    echo "NOT CHECKED: Docker Compose is not on this machine"
    exit 0
fi
config() { docker compose --file infra/compose.yaml --env-file /dev/null config "$@"; }

config --quiet
names=$(COMPOSE_PROJECT_NAME=other PLATFORM_FILES=/elsewhere PRIMARY_PORT=1 config)
for expected in 'container_name: other_postgres_primary' 'name: other_wal_archive' '/elsewhere/primary' 'published: "1"'; do
    if ! printf '%s\n' "$names" | grep -qF "$expected"; then
        echo "infra/compose.yaml: a setting does not reach it, expected: $expected" >&2
        exit 1
    fi
done
