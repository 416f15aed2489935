-- What each backup came to, by hand or on schedule (`make backup`).
set role etl_writer;

create table if not exists audit.backups (
    backup_id bigint generated always as identity primary key,
    -- physical: pgBackRest's, of the OLTP cluster; dump: pg_dump's, of one database
    kind text not null check (kind in ('physical', 'dump')),
    database_name text not null,
    backup_type text not null,
    started_by text not null check (started_by in ('schedule', 'manual')),
    started_at timestamptz not null,
    finished_at timestamptz not null default clock_timestamp(),
    succeeded boolean not null,
    -- pgBackRest's label, or the name of the file
    backup_name text,
    size_bytes bigint,
    error_message text
);

comment on table audit.backups is
'Backups of the OLTP cluster and dumps of both databases: what was made, or why it failed.';

reset role;
