{#
    Alter a table whose columns views read: they are dropped and created again as they were, with their owner, options,
    grants and comments, in this transaction; readers wait until it ends.

    relation: the table's name. actions: list of actions of `alter table`.

    alter_below_views('publish.agg_loans', ['alter column loan_count type numeric'])
#}
{% macro alter_below_views(relation, actions) %}
    {% set views %}
        select
            view.oid::regclass::text as name,
            pg_get_viewdef(view.oid) as definition,
            'with (' || array_to_string(view.reloptions, ', ') || ')' as options,
            pg_get_userbyid(view.relowner) as owner,
            case
                when pg_get_userbyid(view.relowner) <> current_user
                    then format('alter view %s owner to %I', view.oid::regclass, pg_get_userbyid(view.relowner))
            end as ownership,
            pg_has_role(view.relowner, 'MEMBER') as can_be_kept,
            (
                select string_agg(format('grant %s on %s to %s%s', grants.privilege_type, view.oid::regclass,
                    case when grants.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(grants.grantee)) end,
                    case when grants.is_grantable then ' with grant option' else '' end), '; ')
                from aclexplode(view.relacl) as grants
                where grants.grantee <> view.relowner
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
    {% for view in above if not view['can_be_kept'] %}
        {{ exceptions.raise_compiler_error(
            "View " ~ view['name'] ~ " reads " ~ relation ~ ", which is to be altered, and belongs to role "
            ~ view['owner'] ~ ", as which it cannot be made again. Give it to the role that dbt uses (alter view … owner "
            ~ "to), or drop it, and run again."
        ) }}
    {% endfor %}
    {% set ddl %}
        {% for view in above %}
        drop view {{ view['name'] }};
        {% endfor %}
        alter table {{ relation }} {{ actions | join(', ') }};
        {% for view in above %}
        create view {{ view['name'] }} {{ view['options'] or '' }} as {{ view['definition'].rstrip(';') }};
        {{ view['grants'] or '' }};
        {{ view['comments'] or '' }};
        {{ view['ownership'] or '' }};
        {% endfor %}
    {% endset %}
    {% do run_ddl(relation, ddl) %}
{% endmacro %}
