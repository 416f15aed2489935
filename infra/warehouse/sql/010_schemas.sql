-- The layers of the warehouse, in the order in which data flows, and who may look at them.

create extension if not exists postgres_fdw with schema public;
create extension if not exists pg_stat_statements with schema public;
grant usage on foreign data wrapper postgres_fdw to etl_writer;

create schema if not exists operational_fdw authorization etl_writer;
create schema if not exists operational authorization etl_writer;
create schema if not exists staging authorization etl_writer;
create schema if not exists snapshots authorization etl_writer;
create schema if not exists changes authorization etl_writer;
create schema if not exists publish authorization etl_writer;
create schema if not exists warehouse authorization etl_writer;
create schema if not exists audit authorization etl_writer;

comment on schema operational_fdw is 'Foreign tables: the OLTP cluster as it is seen through postgres_fdw.';
comment on schema operational is 'Landing tables: the source''s rows as of the last extraction. The dbt sources.';
comment on schema staging is 'Views that rename and clean the landing tables.';
comment on schema snapshots is 'History of customers and loans, kept by dbt snapshots.';
comment on schema changes is 'What each run changed in a fact or aggregate, for the models that follow it.';
comment on schema publish is
'The small tables behind the dashboard views: one tested state, replaced in one transaction.';
comment on schema warehouse is 'Dimensions, facts, aggregates and the dashboard views.';
comment on schema audit is 'Runs, their models, and the state of the extraction.';

-- Dashboards see schema warehouse and nothing else; dbt grants select on its relations.
grant usage on schema warehouse to warehouse_reader;

-- Whoever looks into every layer reads what etl_writer makes, now and later, and changes nothing.
do $$
declare
    layer name;
begin
    for layer in
        select nspname
        from pg_namespace
        where pg_get_userbyid(nspowner) = 'etl_writer'
    loop
        execute format('grant usage on schema %I to warehouse_user', layer);
        execute format('grant select on all tables in schema %I to warehouse_user', layer);
    end loop;
end
$$;

alter default privileges for role etl_writer grant usage on schemas to warehouse_user;
alter default privileges for role etl_writer grant select on tables to warehouse_user;
