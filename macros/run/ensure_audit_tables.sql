{#
    Create the tables that record the runs, where they are missing.

    etl_runs        one row per run; at most one is 'running', which the database enforces
    model_runs      one row per node of a run
    refused_starts  one row per start that was refused because another run was running
    model_states    how far each model has got: the last run it has taken in
    extraction_state (target prod only) the watermark, and which source it belongs to
    extraction_trail (target prod only) the newest entry of the source's audit trail that was seen
    extraction_transactions (target prod only) the transactions at or above the watermark that were seen, by their
                    first entry in the trail; all of them when extraction_state.trail_is_complete. Of those below it,
                    extraction_state.proven_* sums up the last ones (see source_verdict)
#}
{% macro ensure_audit_tables() %}
    {% set audit = audit_schema() | trim %}
    {% if relation_exists(audit ~ '.extraction_transactions') %}
        {{ return('') }}
    {% endif %}
    {% do run_statement("
        create schema if not exists " ~ audit ~ ";
        create table if not exists " ~ audit ~ ".etl_runs (
            run_id bigint generated always as identity primary key,
            run_started_at timestamptz not null default clock_timestamp(),
            run_finished_at timestamptz,
            status text not null default 'running' check (status in ('running', 'success', 'failed')),
            rows_inserted bigint not null default 0,
            rows_updated bigint not null default 0,
            rows_deleted bigint not null default 0,
            error_message text,
            run_trigger text not null,
            started_by text not null,
            command text not null,
            extraction_mode text,
            extraction_reason text,
            source_host text,
            source_position pg_lsn,
            snapshot_time timestamptz,
            system_identifier text,
            timeline integer,
            dbt_invocation_id text not null unique
        );
        create unique index if not exists etl_runs_one_running on " ~ audit ~ ".etl_runs (status)
            where status = 'running';
        create table if not exists " ~ audit ~ ".model_runs (
            run_id bigint not null references " ~ audit ~ ".etl_runs,
            node_id text not null,
            node_name text not null,
            resource_type text not null,
            status text not null,
            seconds numeric(12, 3) not null,
            rows_inserted bigint,
            rows_updated bigint,
            rows_deleted bigint,
            failures bigint,
            message text,
            primary key (run_id, node_id)
        );
        create table if not exists " ~ audit ~ ".refused_starts (
            refused_at timestamptz not null default clock_timestamp(),
            holder_run_id bigint not null references " ~ audit ~ ".etl_runs,
            run_trigger text not null,
            started_by text not null,
            dbt_invocation_id text not null
        );
        create table if not exists " ~ audit ~ ".model_states (
            model_name text primary key,
            run_id bigint not null,
            landing_run_id bigint not null,
            created_run_id bigint not null,
            definition_hash text not null,
            updated_at timestamptz not null default clock_timestamp()
        );
        create table if not exists " ~ audit ~ ".extraction_state (
            only_row boolean primary key default true check (only_row),
            run_id bigint not null,
            watermark xid8 not null,
            snapshot_xmax xid8 not null,
            system_identifier text not null,
            timeline integer not null,
            source_position pg_lsn not null,
            snapshot_time timestamptz not null
        );
        alter table " ~ audit ~ ".extraction_state
            add column if not exists trail_is_complete boolean not null default false,
            add column if not exists proven_from xid8,
            add column if not exists proven_until xid8,
            add column if not exists proven_entries bigint,
            add column if not exists proven_log_ids numeric,
            add column if not exists proven_first timestamptz,
            add column if not exists proven_last timestamptz;
        create table if not exists " ~ audit ~ ".extraction_trail (
            only_row boolean primary key default true check (only_row),
            log_id bigint not null,
            xact_id xid8 not null,
            change_time timestamptz not null
        );
        create table if not exists " ~ audit ~ ".extraction_transactions (
            xact_id xid8 primary key,
            log_id bigint not null,
            change_time timestamptz not null
        );
        commit
    ") %}
{% endmacro %}
