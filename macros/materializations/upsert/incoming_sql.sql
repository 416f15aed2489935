{#
    The query of the rows that come in: the columns of the table and, but for a plain increment, is_removed.
#}
{% macro incoming_sql(since, names, keys, accumulate) %}
    {% if since and accumulate %}
        with delta as (
            {{ sql }}
        ),

        summed as (
            select
                {% for name in names %}
                {% if name in accumulate %}coalesce(present.{{ name }}, 0) + delta.{{ name }} as {{ name }}{% else %}delta.{{ name }}{% endif %}{{ ',' if not loop.last }}
                {% endfor %}
            from delta
            left join {{ this }} as present on {{ keys_equal(keys, 'delta', 'present') }}
        )

        select *, {{ config.require('delete_when') }} as is_removed from summed
    {% elif since %}
        {{ sql }}
    {% else %}
        select {{ comma_list(names) }}, false as is_removed from ({{ complete_rows(names, sql) }}) as computed
    {% endif %}
{% endmacro %}

{#
    The query of all rows of the table: those of the model's SQL and, with config unknown_member, the unknown member.
#}
{% macro complete_rows(names, sql) %}
    {% set unknown_member = config.get('unknown_member') %}
    select {{ comma_list(names) }} from ({{ sql }}) as computed
    {% if unknown_member is not none %}
    union all
    select
        {% for column in model.columns.values() %}
        ({{ unknown_sk() if column.name in config.require('unique_key') else unknown_member.get(column.name, 'null') }})::{{ column.data_type }}{{ ',' if not loop.last }}
        {% endfor %}
    {% endif %}
{% endmacro %}
