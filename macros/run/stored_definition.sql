{#
    An SQL expression: what the database has as the definition of the present node, as two hashes in one text,
    <content>.<form>; null of a node that is none of these, and where there is no such relation.

      content  what decides about rows: of a view or function, its SQL; of a mart, the columns and constraints of it and
               its change log; of a history, its columns, constraints and unique indexes
      form     who may read them, and how: the owner, options and configured grants of a view, the configured grants of
               a mart, whether everybody may call a function

    PostgreSQL words it differently from the project, so it is compared with what it was right after the run that made it:
    whoever replaced or altered it by hand since is found out. Grants that somebody added are not looked at.
#}
{% macro stored_definition() %}
    {% set relation = sql_literal(this.render()) %}
    {% if config.get('materialized') == 'stable_view' %}
        (
            select
                md5(pg_get_viewdef(oid)) || '.'
                || md5(concat_ws(' ', pg_get_userbyid(relowner), reloptions, {{ configured_grants_held() }}))
            from pg_class
            where oid = to_regclass({{ relation }})
        )
    {% elif config.get('materialized') == 'stored_function' %}
        (
            select
                md5(string_agg(pg_get_functiondef(oid), ' ' order by pg_get_function_identity_arguments(oid))) || '.'
                || bool_and(has_function_privilege('public', oid, 'execute'))
            from pg_proc
            where proname = {{ sql_literal(this.identifier) }}
                and pronamespace = to_regnamespace({{ sql_literal(this.schema) }})
        )
    {% elif config.get('materialized') in ('upsert', 'snapshot') %}
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
                {% if config.get('materialized') == 'snapshot' %}
                union all
                select pg_get_indexdef(indexrelid)
                from pg_index
                where indrelid = to_regclass({{ relation }}) and indisunique and indisvalid
                {% endif %}
            ) as parts
        ) || '.' || coalesce((
            select md5({{ configured_grants_held() }})
            from pg_class
            where oid = to_regclass({{ relation }})
        ), '')
    {% else %}
        null
    {% endif %}
{% endmacro %}

{#
    An SQL expression over pg_class: which of the grants in the node's config its relation has, as a text.
#}
{% macro configured_grants_held() %}
    {% set grants = config.get('grants') or {} %}
    {# Most nodes have the same ones. #}
    {% set known = graph.setdefault('grants_held', {}) %}
    {% if grants | string not in known %}
        {% do known.update({grants | string: grants_held(grants)}) %}
    {% endif %}
    {{ return(known[grants | string]) }}
{% endmacro %}

{#
    The same for given grants: privileges with the roles that have them.
#}
{% macro grants_held(grants) %}
    {% set wanted = [] %}
    {% for privilege, roles in grants.items() %}
        {% for role in ([roles] if roles is string else roles) %}
            {% do wanted.append("(" ~ sql_literal(privilege | lower) ~ ", " ~ sql_literal(role) ~ ")") %}
        {% endfor %}
    {% endfor %}
    {% if not wanted %}
        {{ return("''") }}
    {% endif %}
    coalesce((
        select
            string_agg(
                format('%s:%s', privilege_type, pg_get_userbyid(grantee)), ' ' order by privilege_type, grantee
            )
        from aclexplode(relacl)
        where (lower(privilege_type), pg_get_userbyid(grantee)) in ({{ wanted | join(', ') }})
    ), '')
{% endmacro %}
