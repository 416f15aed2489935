-- What each restore drill of the OLTP cluster's backups came to (`make drill`).
set role etl_writer;

create table if not exists audit.drills (
    drill_id bigint generated always as identity primary key,
    drilled_at timestamptz not null default clock_timestamp(),
    succeeded boolean not null,
    backup_label text,
    -- how old the newest recovered transaction was when the drill began, and how long the recovery took
    rpo_seconds numeric(12, 3),
    rto_seconds numeric(12, 3),
    ended_at_position pg_lsn,
    findings text[] not null default '{}'
);

comment on table audit.drills is
'Restore drills: a backup restored beside the primary, replayed, and compared with it.';

reset role;
