#!/usr/bin/env bash
# Starts one PostgreSQL server of the platform in its container.
#
# usage: entrypoint.sh warehouse|primary|replica1|replica2 NAME_OF_THE_SUPERUSERS_SECRET
#
# The file current-primary beside this script says which member of the OLTP cluster takes the writes; the others are its
# replicas. It is read at each start, so a member that comes back after a failover never takes writes beside the new
# primary. While a file `fenced` is there, this member does not start at all. OLTP_DB is in a member's environment.
#
# The data directory is made under another name and renamed when it is complete, so that it is complete or absent. A
# replica is cloned from the primary, watched, and cloned again when it cannot follow any more; its old data is kept
# aside until that happens again.
set -euo pipefail
umask 077

name=$1
secret=$2
files=/etc/platform
volume=/var/lib/postgresql/data
data=$volume/pgdata
incoming=$volume/incoming
config=$files/postgresql.conf
secrets=/run/secrets
repository_conf=/run/secrets/pgbackrest_conf
# After so many seconds, a replica that neither streams nor catches up with a primary that answers cannot follow it.
patience=20
# One that does not answer yet may be recovering from a crash.
patience_with_silence=300
# One that was cloned and has not streamed since is not cloned again so soon, in minutes: it would fail again.
between_clones=10

say() { printf '%s platform: %s\n' "$(date -u '+%Y-%m-%d %H:%M:%S UTC')" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Two servers on one volume would destroy it. The server inherits the lock and holds it as long as it lives.
exec 9>"$volume/lock"
flock --nonblock 9 || die "another container works on this volume; this one does not start"

# The noted primary; its name is also its host.
primary() { cat "$files/current-primary"; }
takes_writes() { [ "$name" = warehouse ] || [ "$name" = "$(primary)" ]; }

if [ -e "$files/fenced" ]; then
    die "$(cat "$files/fenced")"
fi
# A new cluster beside old data would be an empty book in the place of a full one.
if [ ! -e "$data" ] && takes_writes; then
    kept=$(find "$volume" -maxdepth 1 -name 'pgdata.aside-*' | sort | tail -n 1)
    if [ -n "$kept" ]; then
        die "there is no data directory $data, but older data is there: $kept. What should have taken its place is in" \
            "$incoming, if anywhere; an exchange of the two was interrupted. Rename the one that should serve to" \
            "pgdata in the volume of $name (docs/runbooks.md, Recover to a point in time, says how), then make up again"
    fi
    case $name in
        replica*) die "$name is the primary since the last failover, but it has no data; put it back, or restore a backup" ;;
    esac
fi
if [ -e "$incoming" ]; then
    say "an earlier attempt to make the data directory did not finish; what it left is removed, and it is made again"
    rm -rf "$incoming"
fi
if [ -e "$data" ] && [ ! -e "$data/PG_VERSION" ]; then
    die "$data exists but holds no PostgreSQL data; move it away, or start over with make nuke"
fi

initialise() {
    say "making a new database cluster"
    initdb --pgdata="$incoming" --username=postgres --pwfile="$secrets/$secret" --auth=scram-sha-256 --data-checksums \
        --encoding=UTF8 --locale=C.UTF-8 >&2
    note_password
    mv "$incoming" "$data"
    sync "$volume"
}

password_note=$volume/superuser-password.sha256
password_digest() { sha256sum <"$secrets/$secret" | cut -d ' ' -f 1; }
note_password() { password_digest >"$password_note"; }

# Nobody can log in to change a superuser's password that .env has already forgotten; whoever owns the data can.
take_over_password() {
    if [ "$(cat "$password_note" 2>/dev/null)" = "$(password_digest)" ]; then
        return
    fi
    say "the superuser's password has changed in .env, the server takes it over"
    local literal
    literal=$(sed "s/'/''/g" "$secrets/$secret")
    printf "set standard_conforming_strings = on\nalter role postgres password '%s'\n" "$literal" |
        postgres --single -D "$data" -c config_file="$config" postgres >/dev/null
    note_password
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
    psql --host="$(primary)" --port=5432 --username=postgres --dbname="$OLTP_DB" -XAtq \
        -v ON_ERROR_STOP=1 "$@"
}

primary_streams() {
    psql "host=$(primary) port=5432 user=replicator dbname=postgres replication=true" -XAtqc \
        'IDENTIFY_SYSTEM' >/dev/null 2>&1
}

ensure_slot() { # CLEAR
    ask_primary -v slot="$name" -v clear="$1" >/dev/null 2>&1 \
        <<<"select platform.ensure_replication_slot(:'slot', :'clear');"
}

primary_is_promoted() {
    [ "$(ask_primary -c 'select not pg_is_in_recovery()' 2>/dev/null)" = t ]
}

# Replace the data directory by a copy of the primary's, when the primary is there.
clone() {
    local reported='' attempt
    for attempt in 1 2 3; do
        # A copy is of no use when its source was promoted meanwhile.
        until primary_streams && primary_is_promoted && ensure_slot true; do
            [ -n "$reported" ] || say "waiting for the primary, to be cloned from it"
            reported=1
            run sleep 1
        done
        rm -rf "$incoming"
        say "cloning the primary"
        if run pg_basebackup --pgdata="$incoming" --host="$(primary)" --port=5432 --username=replicator \
            --no-password --wal-method=stream --checkpoint=fast --slot="$name" >&2; then
            break
        fi
        rm -rf "$incoming"
        [ "$attempt" -lt 3 ] || die "the primary could not be cloned, see above; the next start tries again"
        run sleep 2
    done
    touch "$incoming/standby.signal" "$volume/not-proven"
    if [ -e "$data" ]; then
        rm -rf "$volume"/pgdata.aside-*
        local aside
        aside=$volume/pgdata.aside-$(date -u +%Y%m%dT%H%M%SZ)
        mv "$data" "$aside"
        say "the old data is kept in $aside until this happens again"
    fi
    rm -f "$volume/failed-start" "$volume/clone-again"
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

# Run the server until it ends or is asked to. Returns 0 when it should be cloned again; else the script ends with it.
# A replica that a failover makes the primary goes on in here, until its next start.
serve() { # PROMOTE
    local server sleeper state position='' since=$SECONDS slot_seen='' streamed='' noted='' pause=1 code=0 needed
    rm -f "$data/postmaster.pid"
    # A standby does not start with less than its primary had, which is 0 unless an earlier version of the platform
    # wrote its data.
    needed=$(LC_ALL=C pg_controldata "$data" | sed -n 's/^max_prepared_xacts setting: *//p')
    [ "${needed:-0}" != 0 ] || needed=
    postgres -D "$data" -c config_file="$config" ${needed:+-c max_prepared_transactions="$needed"} &
    server=$!
    while kill -0 "$server" 2>/dev/null; do
        child=$server
        trap 'on_signal INT' INT TERM
        # Each look is a psql of its own: seldom while all is well.
        sleep "$pause" &
        sleeper=$!
        wait -n "$server" "$sleeper" || true
        kill "$sleeper" 2>/dev/null || true
        pause=1
        if [ -n "$stopping" ]; then
            break
        fi
        state=$(look)
        if takes_writes; then
            since=$SECONDS
            case $state in
                *\|t)
                    [ -z "$1" ] || pg_ctl promote --pgdata="$data" --no-wait >/dev/null || true
                    ;;
                *\|f)
                    # It has let us in by the password of .env: the next start need not take that over.
                    [ -n "$noted" ] || note_password
                    noted=1
                    pause=10
                    rm -f "$volume/failed-start" "$volume/not-proven"
                    ;;
            esac
            continue
        fi
        case $state in
            streaming\|*\|t)
                since=$SECONDS
                pause=10
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
                        say "it neither streams nor comes nearer to the primary, it is cloned again"
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
    if [ "$code" = 1 ] && [ -z "$streamed" ] && ! takes_writes && primary_streams; then
        # It refuses to start. Once may be chance; the second time its data is the reason.
        if [ -e "$volume/failed-start" ] && ! just_cloned; then
            say "it does not start, for the second time; it is cloned again"
            return 0
        fi
        touch "$volume/failed-start"
    fi
    say "the server has ended (exit code $code)"
    exit "$code"
}

be_replica() {
    # Should it become the primary, its password is that of the primary now, whatever the note says.
    rm -f "$password_note"
    # A wrong setting is no reason to clone.
    postgres -D "$data" -C port -c config_file="$config" >/dev/null 2>/tmp/check || [ ! -e "$data" ] ||
        die "the configuration is wrong: $(cat /tmp/check)"
    if [ ! -e "$data" ]; then
        clone
    elif [ -e "$volume/clone-again" ]; then
        say "it is cloned again, as requested"
        clone
    elif [ ! -e "$data/standby.signal" ]; then
        say "it is no replica any more (it was promoted), it is cloned again"
        clone
    elif ! ensure_slot false; then
        say "the primary does not answer; the replica starts without it"
    fi
    while true; do
        serve ''
        clone
    done
}

if [ "$name" != warehouse ]; then
    export PGPASSFILE=/tmp/pgpass PGCONNECT_TIMEOUT=5
    install -m 600 "$secrets/member_pgpass" "$PGPASSFILE"
fi
"$files/adopt_certificates.sh"
# Included by postgresql.conf: what depends on how this image's server was built.
"$files/choose_settings.sh" "$(command -v postgres)" <"$files/build.settings" >/tmp/15-build.conf
if ! takes_writes; then
    be_replica
fi
[ -e "$data" ] || initialise
# Of a server that was killed; the lock says that nobody else works here.
rm -f "$data/postmaster.pid"
if [ "$name" != warehouse ]; then
    # Without it nothing is archived, which `make health` reports; the server serves anyway.
    pgbackrest --config="$repository_conf" --stanza=oltp --no-online stanza-create ||
        say "the repository of WAL and backups could not be prepared, see above"
fi
if [ -e "$data/standby.signal" ]; then
    say "it is the primary since the last failover, which was interrupted: it is promoted"
    serve promote
fi
take_over_password
exec postgres -D "$data" -c config_file="$config"
