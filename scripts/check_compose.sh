#!/bin/sh
# Lets Docker Compose read infra/compose.yaml: with no setting it stops and says why; with what `make up` writes it knows
# every setting, by this file and by the one in the checkout.
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
config() { docker compose --env-file /dev/null "$@"; }

if config --file infra/compose.yaml config --quiet 2>/tmp/check_compose.$$; then
    echo "infra/compose.yaml: without settings, it should say: run make up first" >&2
    exit 1
fi
grep -qF 'run make up first' /tmp/check_compose.$$ || {
    cat /tmp/check_compose.$$ >&2
    exit 1
}
rm /tmp/check_compose.$$
for file in infra/compose.yaml compose.yaml; do
    names=$(COMPOSE_PROJECT_NAME=other PLATFORM_FILES=/elsewhere PRIMARY_PORT=1 POSTGRES_DIGEST=sha256:1 PYTHON_DIGEST=sha256:2 \
        config --file "$file" config)
    for expected in 'container_name: other_postgres_primary' 'name: other_wal_archive' '/elsewhere/primary' 'published: "1"' \
        'image: postgres:15-bookworm@sha256:1' 'POSTGRES_DIGEST: sha256:1' 'PYTHON_DIGEST: sha256:2' 'image: nginx:1-alpine$'; do
        if ! printf '%s\n' "$names" | grep -q "$expected"; then
            echo "$file: a setting does not reach it, expected: $expected" >&2
            exit 1
        fi
    done
done
