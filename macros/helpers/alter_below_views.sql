{#
    Alter a table whose columns views read: they are dropped and created again as they were, with their grants and comments,
    in this transaction; readers wait until it ends.

    relation: the table's name. actions: list of actions of `alter table`.

    alter_below_views('publish.agg_loans', ['alter column loan_count type numeric'])
#}
{% macro alter_below_views(relation, actions) %}
    {% set views %}
        select
            view.oid::regclass::text as name,
            pg_get_viewdef(view.oid) as definition,
            (
                select string_agg(format('grant %s on %s to %I', grants.privilege_type, view.oid::regclass,
                    pg_get_userbyid(grants.grantee)), '; ')
                from aclexplode(view.relacl) as grants
                where grants.grantee <> view.relowner and grants.grantee <> 0
            ) as grants,
            (
                select string_agg(format('comment on %s is %L', case
                    when comment.objsubid = 0 then 'view ' || view.oid::regclass::text
                    else format('column %s.%I', view.oid::regclass, (
                        select attname from pg_attribute where attrelid = view.oid and attnum = comment.objsubid
                    )) end, comment.description), '; ')
                from pg_description as comment
                where comment.objoid = view.oid and comment.classoid = 'pg_class'::regclass
            ) as comments
        from pg_class as view
        where view.oid in (
            select pg_rewrite.ev_class
            from pg_depend
            inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
            where pg_depend.refobjid = {{ sql_literal(relation) }}::regclass and pg_depend.classid = 'pg_rewrite'::regclass
        )
        order by view.oid
    {% endset %}
    {% set above = run_query(views).rows %}
    {% set ddl %}
        {% for view in above %}
        drop view {{ view['name'] }};
        {% endfor %}
        alter table {{ relation }} {{ actions | join(', ') }};
        {% for view in above %}
        create view {{ view['name'] }} as {{ view['definition'].rstrip(';') }};
        {{ view['grants'] or '' }};
        {{ view['comments'] or '' }};
        {% endfor %}
    {% endset %}
    {% do run_ddl(relation, ddl) %}
{% endmacro %}
