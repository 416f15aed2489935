{#
    An SQL expression: what the database has as the definition of the present node, as a hash: of a view or function, or the
    columns and constraints of a mart and its change log; null of anything else, and where there is no such relation.
    PostgreSQL words it differently from the project, so it is compared with what it was right after the run that made it:
    whoever replaced or altered it by hand since is found out.
#}
{% macro stored_definition() %}
    {% set relation = sql_literal(this.render()) %}
    {% if config.get('materialized') == 'stable_view' %}
        md5(pg_get_viewdef(to_regclass({{ relation }})))
    {% elif config.get('materialized') == 'stored_function' %}
        (
            select md5(string_agg(pg_get_functiondef(oid), ' ' order by pg_get_function_identity_arguments(oid)))
            from pg_proc
            where proname = {{ sql_literal(this.identifier) }}
                and pronamespace = to_regnamespace({{ sql_literal(this.schema) }})
        )
    {% elif config.get('materialized') == 'upsert' %}
        (
            select md5(string_agg(part, ' ' order by part))
            from (
                select concat_ws(' ', made.kind, attname, format_type(atttypid, atttypmod), attnotnull) as part
                from (values
                    ('table', to_regclass({{ relation }}))
                    {% if config.get('log_changes') %}
                    , ('log', to_regclass({{ sql_literal(changes_of(model.name) | trim) }}))
                    {% endif %}
                ) as made (kind, oid)
                inner join pg_attribute on made.oid = pg_attribute.attrelid
                where attnum > 0 and not attisdropped
                union all
                select pg_get_constraintdef(oid)
                from pg_constraint
                where conrelid = to_regclass({{ relation }}) and contype in ('p', 'u', 'c', 'f', 'x')
            ) as parts
        )
    {% else %}
        null
    {% endif %}
{% endmacro %}
