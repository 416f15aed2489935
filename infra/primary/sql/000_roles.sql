-- Roles of the OLTP cluster. Passwords are set by the platform, never in a file.
-- Every file in this folder may be applied again at any time: it creates what is missing and replaces what changed.

do $$
declare
    wanted record;
begin
    for wanted in
        select *
        from (
            values
            ('loans_owner', 'nologin'),              -- owns the schema and its functions, nobody logs in as it
            ('app_user', 'login'),                   -- the application: reads and writes the five tables
            ('readonly_user', 'login'),              -- reports on the operational schema
            ('etl_reader', 'login'),                 -- the warehouse: select on what it extracts
            ('replicator', 'login replication'),     -- streaming replication, nothing else
            ('pgbouncer_lookup', 'login')            -- PgBouncer's look-up of password verifiers
        ) as role_list (role_name, attributes)
    loop
        if not exists (select from pg_roles where rolname = wanted.role_name) then
            execute format('create role %I %s', wanted.role_name, wanted.attributes);
        end if;
    end loop;
end
$$;

-- The owner answers for the state of replication in etl.source_state().
grant pg_monitor to loans_owner;

do $$
begin
    execute format('revoke all on database %I from public', current_database());
    execute format('grant create, connect, temporary on database %I to loans_owner', current_database());
    execute format('grant connect, temporary on database %I to app_user', current_database());
    execute format(
        'grant connect on database %I to readonly_user, etl_reader, pgbouncer_lookup', current_database()
    );
end
$$;

revoke create on schema public from public;
revoke all on database postgres, template1 from public;

-- No role takes every connection: together they get fewer than oltp.conf allows beside the superuser's reserve.
alter role app_user connection limit 50;
alter role readonly_user connection limit 30;
alter role etl_reader connection limit 15;
alter role pgbouncer_lookup connection limit 20;

-- What only reads says so; a role may lift this for a session, so the privileges above are what protects the data.
alter role readonly_user set default_transaction_read_only = on;
alter role etl_reader set default_transaction_read_only = on;
-- A query that went wrong, or a session that was left open, does not stay for days.
alter role readonly_user set statement_timeout = '30min';
alter role readonly_user set idle_session_timeout = '8h';
alter role pgbouncer_lookup set statement_timeout = '10s';

-- A session that was forgotten in an open transaction holds its locks, the warehouse's watermark and every dead row.
-- Not etl_reader, whatever is set for the database: between two tables its session waits for the warehouse to write.
do $$
begin
    execute format(
        'alter role app_user in database %I set idle_in_transaction_session_timeout = %L', current_database(), '10min'
    );
    execute format(
        'alter role readonly_user in database %I set idle_in_transaction_session_timeout = %L',
        current_database(), '10min'
    );
    execute format('alter role etl_reader in database %I set idle_in_transaction_session_timeout = 0', current_database());
    -- Names and types of both sides are compared as texts.
    execute format('alter role etl_reader in database %I set quote_all_identifiers = off', current_database());
    -- A run that waits for a locked table would keep all later ones from starting.
    execute format('alter role etl_reader in database %I set lock_timeout = %L', current_database(), '1min');
end
$$;
