-- PgBouncer's look-up of password verifiers (auth_query), owned by the superuser because it reads pg_shadow.
-- It never hands out a superuser's or a replication role's verifier, nor its own, nor one that is no longer valid: the
-- server itself would refuse that password, and PgBouncer only asks whether it is right.

create schema if not exists pgbouncer;

create or replace function pgbouncer.user_lookup(in user_name text, out usename text, out passwd text)
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    select shadow.usename::text, shadow.passwd
    from pg_shadow as shadow
    where shadow.usename = user_name
        and not shadow.usesuper
        and not shadow.userepl
        and shadow.usename <> 'pgbouncer_lookup'
        and (shadow.valuntil is null or shadow.valuntil > clock_timestamp())
$$;

revoke all on function pgbouncer.user_lookup(text) from public;
revoke all on schema pgbouncer from public;
grant usage on schema pgbouncer to pgbouncer_lookup;
grant execute on function pgbouncer.user_lookup(text) to pgbouncer_lookup;
