-- What PostgreSQL lets everybody do in a database and nobody here needs: large objects and logical messages are data
-- and WAL that no table, no privilege and no check of this platform knows of.
do $$
declare
    routine regprocedure;
begin
    for routine in
        select proc.oid::regprocedure
        from pg_proc as proc
        where proc.pronamespace = 'pg_catalog'::regnamespace
            and (proc.proname ~ '^lo_' or proc.proname in ('loread', 'lowrite', 'pg_logical_emit_message'))
    loop
        execute format('revoke execute on function %s from public', routine);
    end loop;
end
$$;
