-- Roles of the warehouse. Passwords are set by the platform, never in a file.
-- Every file in this folder may be applied again at any time.

do $$
declare
    wanted record;
begin
    for wanted in
        select *
        from (
            values
            ('warehouse_owner', 'nologin'),      -- owns the database: its settings reach every session, also ours
            ('etl_writer', 'login'),             -- dbt: makes and fills every layer
            ('warehouse_user', 'login'),         -- people who look into every layer
            ('warehouse_reader', 'login')        -- dashboards: schema warehouse alone
        ) as role_list (role_name, attributes)
    loop
        if not exists (select from pg_roles where rolname = wanted.role_name) then
            execute format('create role %I %s', wanted.role_name, wanted.attributes);
        end if;
    end loop;
end
$$;

-- Earlier versions let warehouse_user own the database and do all that etl_writer may.
revoke etl_writer from warehouse_user;

do $$
begin
    execute format('alter database %I owner to warehouse_owner', current_database());
    -- What a former owner may have set for everybody's sessions.
    execute format('alter database %I reset search_path', current_database());
    execute format('alter database %I reset role', current_database());
    execute format('revoke all on database %I from public', current_database());
    -- dbt makes the schemas it needs; temporary tables hold the changed rows of a run.
    execute format('grant create, connect, temporary on database %I to etl_writer', current_database());
    execute format('grant connect on database %I to warehouse_user, warehouse_reader', current_database());
    -- Whatever somebody sets for the database: runs think in UTC, and read replicas, which know no serializable snapshots.
    execute format('alter role etl_writer in database %I set timezone = ''UTC''', current_database());
    execute format('alter role etl_writer in database %I set datestyle = ''ISO, MDY''', current_database());
    execute format('alter role etl_writer in database %I set default_transaction_isolation = ''read committed''',
        current_database());
    -- Names and types of both sides are compared as texts, and definitions with what they were in another session.
    execute format('alter role etl_writer in database %I set quote_all_identifiers = off', current_database());
    execute format('alter role etl_writer in database %I set intervalstyle = postgres', current_database());
    execute format('alter role etl_writer in database %I set extra_float_digits = 1', current_database());
    execute format('alter role etl_writer in database %I set bytea_output = hex', current_database());
    -- A query of a dashboard that went wrong must not hold the server.
    execute format('alter role warehouse_reader in database %I set statement_timeout = ''60s''', current_database());
    execute format('alter role warehouse_reader in database %I set default_transaction_read_only = on',
        current_database());
end
$$;

-- No role takes every connection: together they get fewer than warehouse.conf allows beside the superuser's reserve.
-- metabase_user's limit is set where the role is made.
alter role etl_writer connection limit 30;
alter role warehouse_user connection limit 15;
alter role warehouse_reader connection limit 30;

alter role warehouse_user set default_transaction_read_only = on;
alter role warehouse_user set statement_timeout = '30min';
alter role warehouse_user set idle_in_transaction_session_timeout = '10min';
alter role warehouse_user set idle_session_timeout = '8h';
alter role warehouse_reader set idle_in_transaction_session_timeout = '5min';
-- Its queries are many, and over in milliseconds: to start a worker for one takes longer than the worker saves.
alter role warehouse_reader set parallel_setup_cost = 5000;

revoke create on schema public from public;
revoke all on database postgres, template1 from public;
