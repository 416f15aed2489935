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
        select {{ comma_list(names) }}, false as is_removed from ({{ sql }}) as computed
    {% endif %}
{% endmacro %}
