-- What monitoring reads of the primary: replication, the WAL that is kept, and the archive.

set role loans_owner;

-- One figure per row. Runs as the owner, who may look at replication; a standby has no rows.
create or replace function etl.server_figures()
returns table (figure text, member text, amount double precision)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 'replica_streaming', application_name, (state = 'streaming')::integer
    from pg_stat_replication
    union all
    select 'replica_lag_bytes', application_name, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)
    from pg_stat_replication
    union all
    select 'replica_lag_seconds', application_name, coalesce(extract(epoch from replay_lag), 0)
    from pg_stat_replication
    union all
    select 'slot_active', slot_name, active::integer
    from pg_replication_slots
    union all
    select 'slot_kept_bytes', slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)
    from pg_replication_slots
    union all
    select 'wal_kept_bytes', null, sum(size)
    from pg_ls_waldir()
    union all
    select 'wal_archived_total', null, archived_count
    from pg_stat_archiver
    union all
    select 'wal_archive_failures_total', null, failed_count
    from pg_stat_archiver
    union all
    select 'wal_archive_failing', null, coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)::integer
    from pg_stat_archiver
    union all
    select 'wal_last_archived_timestamp_seconds', null, extract(epoch from last_archived_time)
    from pg_stat_archiver
$$;

comment on function etl.server_figures() is
'Figures of this primary for monitoring: its replicas, the WAL that it keeps, and its archive.';

create or replace view etl.server_figures as
select
    figures.figure,
    figures.member,
    figures.amount
from etl.server_figures() as figures
where not pg_is_in_recovery();

revoke all on function etl.server_figures() from public;
grant execute on function etl.server_figures() to etl_reader;
grant select on etl.server_figures to etl_reader;

reset role;
