-- What reading all backups and the WAL archive again came to, by hand or on schedule (`make backups VERIFY=1`).
set role etl_writer;

create table if not exists audit.backup_checks (
    check_id bigint generated always as identity primary key,
    checked_at timestamptz not null default clock_timestamp(),
    started_by text not null check (started_by in ('schedule', 'manual')),
    succeeded boolean not null,
    -- what keeps a recovery from the newest backup from reaching the end of the WAL, or makes the newest dump useless
    findings text[] not null default '{}',
    -- what is damaged or missing before that
    older_findings text[] not null default '{}'
);

comment on table audit.backup_checks is
'Checks of dumps, physical backups and archived WAL: every file read again, every gap in the archive.';

reset role;
