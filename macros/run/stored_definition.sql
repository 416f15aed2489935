{#
    An SQL expression: what the database has as the definition of the present node, a view or function, as a hash; null of
    anything else, and where there is no such view or function. PostgreSQL words it differently from the model's SQL, so
    it is compared with what it was right after the run that made it: whoever replaced it by hand since is found out.
#}
{% macro stored_definition() %}
    {% if config.get('materialized') == 'stable_view' %}
        md5(pg_get_viewdef(to_regclass({{ sql_literal(this.render()) }})))
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
                select concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull) as part
                from pg_attribute
                where attrelid = to_regclass({{ sql_literal(this.render()) }}) and attnum > 0 and not attisdropped
                union all
                select pg_get_constraintdef(oid)
                from pg_constraint
                where conrelid = to_regclass({{ sql_literal(this.render()) }}) and contype in ('p', 'u', 'c', 'f', 'x')
            ) as parts
        )
    {% else %}
        null
    {% endif %}
{% endmacro %}
