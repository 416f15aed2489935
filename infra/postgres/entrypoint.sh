#!/usr/bin/env bash
# Starts one PostgreSQL server of the platform in its container.
#
# usage: entrypoint.sh primary|warehouse NAME_OF_THE_SUPERUSERS_SECRET
#        entrypoint.sh replica NAME_OF_ITS_SLOT
#
# The data directory is made under another name and renamed when it is complete, so that it is whole or not there. A
# replica is cloned from the primary, watched, and cloned anew when it cannot follow any more; its old data is kept
# aside until that happens again. A replica also needs PRIMARY_HOST, PRIMARY_PORT and OLTP_DB in the environment.
set -euo pipefail
umask 077

role=$1
volume=/var/lib/postgresql/data
data=$volume/pgdata
incoming=$volume/incoming
config=/etc/platform/postgresql.conf
secrets=/run/secrets
# A replica that neither streams nor comes nearer to a primary that answers cannot follow it, after so many seconds.
patience=20
# One that does not answer yet may be recovering from a crash.
patience_with_silence=300
# One that was cloned and has not streamed since is not cloned again so soon, in minutes: it would be in vain.
between_clones=10

say() { printf '%s platform: %s\n' "$(date -u '+%Y-%m-%d %H:%M:%S UTC')" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Two servers on one volume would destroy it. The server inherits the lock and holds it as long as it lives.
exec 9>"$volume/lock"
flock --nonblock 9 || die "another container works on this volume; this one does not start"

if [ -e "$incoming" ]; then
    say "an earlier attempt to make the data directory did not finish; what it left is removed, and it is made anew"
    rm -rf "$incoming"
fi
if [ -e "$data" ] && [ ! -e "$data/PG_VERSION" ]; then
    die "$data exists but holds no PostgreSQL data; move it away, or begin anew with make nuke"
fi

initialise() { # SECRET
    say "making a new database cluster"
    initdb --pgdata="$incoming" --username=postgres --pwfile="$secrets/$1" --auth=scram-sha-256 --data-checksums \
        --encoding=UTF8 --locale=C.UTF-8 >&2
    note_password "$1"
    mv "$incoming" "$data"
    sync "$volume"
}

password_digest() { sha256sum <"$secrets/$1" | cut -d ' ' -f 1; }
note_password() { password_digest "$1" >"$volume/superuser-password.sha256"; }

# Nobody can log in to change a superuser's password that .env has already forgotten; whoever owns the data can.
take_over_password() { # SECRET
    if [ "$(cat "$volume/superuser-password.sha256" 2>/dev/null)" = "$(password_digest "$1")" ]; then
        return
    fi
    say "the superuser's password has changed in .env, the server takes it over"
    local literal
    literal=$(sed "s/'/''/g" "$secrets/$1")
    printf "set standard_conforming_strings = on\nalter role postgres password '%s'\n" "$literal" |
        postgres --single -D "$data" -c config_file="$config" postgres >/dev/null
    note_password "$1"
}

# --- a replica --------------------------------------------------------------------------------------------------------

child=
stopping=

# A signal ends whatever runs now. SIGINT is PostgreSQL's fast shutdown, and bash lets background jobs ignore it.
on_signal() {
    stopping=1
    if [ -n "$child" ]; then
        kill "-$1" "$child" 2>/dev/null || true
    fi
}

# Wait for a child, also when a signal arrives meanwhile. Returns its exit code.
await() { # PROCESS
    local code=0
    while true; do
        code=0
        wait "$1" || code=$?
        kill -0 "$1" 2>/dev/null || return "$code"
    done
}

# Run a command that a signal to this script ends.
run() {
    "$@" &
    child=$!
    trap 'on_signal TERM' INT TERM
    local code=0
    await "$child" || code=$?
    child=
    [ -z "$stopping" ] || exit 0
    return "$code"
}

ask_primary() {
    psql --host="$PRIMARY_HOST" --port="$PRIMARY_PORT" --username=postgres --dbname="$OLTP_DB" -XAtq \
        -v ON_ERROR_STOP=1 "$@"
}

primary_streams() {
    psql "host=$PRIMARY_HOST port=$PRIMARY_PORT user=replicator dbname=postgres replication=true" -XAtqc \
        'IDENTIFY_SYSTEM' >/dev/null 2>&1
}

ensure_slot() { # CLEAR
    ask_primary -v slot="$slot" -v clear="$1" >/dev/null 2>&1 \
        <<<"select platform.ensure_replication_slot(:'slot', :'clear');"
}

# Replace the data directory by a copy of the primary's, when the primary is there.
clone() {
    local said=
    until primary_streams && ensure_slot true; do
        [ -n "$said" ] || say "waiting for the primary, to be cloned from it"
        said=1
        run sleep 1
    done
    rm -rf "$incoming"
    say "cloning the primary"
    if ! run pg_basebackup --pgdata="$incoming" --host="$PRIMARY_HOST" --port="$PRIMARY_PORT" --username=replicator \
        --no-password --wal-method=stream --checkpoint=fast --slot="$slot" >&2; then
        rm -rf "$incoming"
        die "the primary could not be cloned, see above; the next start tries again"
    fi
    touch "$incoming/standby.signal" "$volume/not-proven"
    if [ -e "$data" ]; then
        rm -rf "$volume"/pgdata.aside-*
        local aside
        aside=$volume/pgdata.aside-$(date -u +%Y%m%dT%H%M%SZ)
        mv "$data" "$aside"
        say "the old data is kept in $aside until this happens again"
    fi
    rm -f "$volume/failed-start"
    mv "$incoming" "$data"
    sync "$volume"
}

just_cloned() { [ -n "$(find "$volume/not-proven" -mmin "-$between_clones" 2>/dev/null)" ]; }

# What this server says of itself: state of its WAL receiver, how far it has replayed, whether it is a replica.
look() {
    psql --host=127.0.0.1 --port=5432 --username=postgres --dbname=postgres -XAtqc \
        "select coalesce((select status from pg_stat_wal_receiver), 'none'), pg_last_wal_replay_lsn(),
        pg_is_in_recovery()" 2>/dev/null || true
}

# Run the server until it ends or is asked to. Returns 0 when it should be cloned anew; else the script ends with it.
serve() {
    local server state position='' since=$SECONDS slot_seen='' streamed='' code=0
    rm -f "$data/postmaster.pid"
    postgres -D "$data" -c config_file="$config" &
    server=$!
    while kill -0 "$server" 2>/dev/null; do
        child=$server
        trap 'on_signal INT' INT TERM
        sleep 1 &
        wait $! || true
        if [ -n "$stopping" ]; then
            break
        fi
        state=$(look)
        case $state in
            streaming\|*\|t)
                since=$SECONDS
                if [ -z "$streamed" ]; then
                    streamed=1
                    rm -f "$volume/not-proven" "$volume/failed-start"
                fi
                ;;
            *\|f)
                # Promoted by hand: it serves until its next start.
                since=$SECONDS
                ;;
            *)
                if [ "$state" != "$position" ] || ! primary_streams; then
                    position=$state
                    since=$SECONDS
                    slot_seen=
                elif [ -z "$slot_seen" ]; then
                    # A slot that is gone or lost is made again; what it missed is in the archive.
                    ensure_slot false || true
                    slot_seen=1
                elif ((SECONDS - since > (${#state} ? patience : patience_with_silence))); then
                    if just_cloned; then
                        say "it was cloned just now, and still does not follow the primary"
                        since=$SECONDS
                    else
                        say "it neither streams nor comes nearer to the primary, it is cloned anew"
                        kill -INT "$server" 2>/dev/null || true
                        await "$server" || true
                        return 0
                    fi
                fi
                ;;
        esac
    done
    await "$server" || code=$?
    if [ -n "$stopping" ]; then
        exit "$code"
    fi
    if [ "$code" = 1 ] && [ -z "$streamed" ] && primary_streams; then
        # It refuses to start. Once may be chance; the second time its data is the reason.
        if [ -e "$volume/failed-start" ] && ! just_cloned; then
            say "it does not start, for the second time; it is cloned anew"
            return 0
        fi
        touch "$volume/failed-start"
    fi
    say "the server has ended (exit code $code)"
    exit "$code"
}

case $role in
    primary | warehouse)
        [ -e "$data" ] || initialise "$2"
        # Of a server that was killed; the lock says that nobody else works here.
        rm -f "$data/postmaster.pid" /var/lib/postgresql/wal_archive/.incoming.*
        take_over_password "$2"
        exec postgres -D "$data" -c config_file="$config"
        ;;
    replica)
        slot=$2
        export PGPASSFILE=/tmp/pgpass PGCONNECT_TIMEOUT=5
        install -m 600 "$secrets/replica_pgpass" "$PGPASSFILE"
        mkdir -p "$volume/wal_archive"
        # A wrong setting is no reason to clone.
        postgres -D "$data" -C port -c config_file="$config" >/dev/null 2>/tmp/check || [ ! -e "$data" ] ||
            die "the configuration is wrong: $(cat /tmp/check)"
        if [ ! -e "$data" ]; then
            clone
        elif [ ! -e "$data/standby.signal" ]; then
            say "it is no replica any more (it was promoted), it is cloned anew"
            clone
        elif ! ensure_slot false; then
            say "the primary does not answer; the replica starts without it"
        fi
        while true; do
            serve
            clone
        done
        ;;
    *) die "expected primary, warehouse or replica, found '$role'" ;;
esac
