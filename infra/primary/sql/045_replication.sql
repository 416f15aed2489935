-- The slot of a replica, on whichever member is the primary. Only the superuser calls it.

create schema if not exists platform;

create or replace function platform.ensure_replication_slot(replica name, clear boolean default false)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if clear then
        -- Whoever uses it now is gone: the walsender of a pg_basebackup that was killed, for example.
        perform pg_terminate_backend(slots.active_pid, 10000)
        from pg_replication_slots as slots
        where slots.slot_name = replica and slots.active;
    end if;
    -- A slot that lost its WAL never comes back; the replica may still find that WAL in the archive.
    perform pg_drop_replication_slot(slots.slot_name)
    from pg_replication_slots as slots
    where slots.slot_name = replica and slots.wal_status = 'lost' and not slots.active;
    if not exists (select from pg_replication_slots as slots where slots.slot_name = replica) then
        perform pg_create_physical_replication_slot(replica, true);
    end if;
end
$$;

comment on function platform.ensure_replication_slot(name, boolean) is
'Sees that this server keeps WAL for a replica. clear: also ends whoever uses the slot now.';

revoke all on function platform.ensure_replication_slot(name, boolean) from public;
