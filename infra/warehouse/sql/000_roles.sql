-- Roles of the warehouse. Passwords are set by the platform, never in a file.
-- Every file in this folder may be applied again at any time.

do $$
declare
    role_name text;
begin
    foreach role_name in array array['warehouse_user', 'etl_writer', 'warehouse_reader'] loop
        if not exists (select from pg_roles where rolname = role_name) then
            execute format('create role %I login', role_name);
        end if;
    end loop;
end
$$;

do $$
begin
    execute format('alter database %I owner to warehouse_user', current_database());
    execute format('revoke all on database %I from public', current_database());
    -- dbt makes the schemas it needs; temporary tables hold the changed rows of a run.
    execute format('grant create, connect, temporary on database %I to etl_writer', current_database());
    execute format('grant connect on database %I to warehouse_reader', current_database());
    -- Whatever somebody sets for the database: runs think in UTC, and read replicas, which know no serializable snapshots.
    execute format('alter role etl_writer in database %I set timezone = ''UTC''', current_database());
    execute format('alter role etl_writer in database %I set datestyle = ''ISO, MDY''', current_database());
    execute format('alter role etl_writer in database %I set default_transaction_isolation = ''read committed''',
        current_database());
    -- A query of a dashboard that went wrong must not hold the server.
    execute format('alter role warehouse_reader in database %I set statement_timeout = ''60s''', current_database());
    execute format('alter role warehouse_reader in database %I set default_transaction_read_only = on',
        current_database());
end
$$;

revoke create on schema public from public;
grant etl_writer to warehouse_user;
