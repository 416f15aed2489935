{#
    Run DDL on a relation that others may be reading. A reader that stays (idle in a transaction, or in a long query) must
    not make everybody else queue behind this statement: it waits for its lock only briefly, lets the queue pass, and
    tries again, about once a second. When it gives up, the message names the sessions that block it.

    Everything that takes a relation away from its readers, or changes it, goes this way: dbt's own statements too
    (overrides/ddl_of_dbt.sql). What is made in the same transaction, and temporary tables, have no readers.

    relation: what the DDL locks; the views over it may be locked too. statements: SQL, run in this transaction.
#}
{% macro run_ddl(relation, statements) %}
    {# The message has the name without quotes: what is quoted in a message is not recorded (without_row_values). #}
    {% set ddl %}
        do $ddl$
        declare
            blockers text;
            usual_timeout text := current_setting('lock_timeout');
        begin
            for attempt in 1..greatest({{ var('ddl_lock_attempts') }}, 1) loop
                begin
                    perform set_config('lock_timeout', '300ms', true);
                    execute $statements${{ statements }}$statements$;
                    perform set_config('lock_timeout', usual_timeout, true);
                    return;
                exception when lock_not_available then
                    select string_agg(format(
                        'process %s (role %s%s, connected since %s)', activity.pid, activity.usename,
                        coalesce(', ' || nullif(activity.application_name, ''), ''),
                        to_char(activity.backend_start, 'YYYY-MM-DD HH24:MI')
                    ), '; ')
                    into blockers
                    from (
                        with recursive locked as (
                            select to_regclass({{ sql_literal(relation | string) }})::oid as oid
                            union
                            select pg_rewrite.ev_class
                            from locked
                            inner join pg_depend
                                on locked.oid = pg_depend.refobjid and pg_depend.classid = 'pg_rewrite'::regclass
                            inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
                        )

                        select distinct held.pid from pg_locks as held
                        where held.granted
                            and held.relation in (select oid from locked)
                            and held.database = (select oid from pg_database where datname = current_database())
                            and held.pid <> pg_backend_pid()
                    ) as holder
                    inner join pg_stat_activity as activity on holder.pid = activity.pid;
                    perform pg_sleep(0.7);
                end;
            end loop;
            raise exception 'lock timeout: % cannot be changed while it is in use by %. The dashboards keep their last '
                'state and the next run tries again; select pg_terminate_backend(<process>) ends a session.',
                {{ sql_literal(relation | string | replace('"', '')) }},
                coalesce(blockers, 'a session that has ended since');
        end
        $ddl$
    {% endset %}
    {% do run_statement(ddl) %}
{% endmacro %}
