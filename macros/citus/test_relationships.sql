{#
    dbt's test that every value of a column is found in another table. On Citus the values that are looked for are
    collected first, and looked up by key: otherwise the whole other table would travel, in every run.
#}
{% macro postgres__test_relationships(model, column_name, to, field) %}
    {% if not is_citus() %}
        {{ return(dbt.default__test_relationships(model, column_name, to, field)) }}
    {% endif %}
    with child as materialized (
        select distinct {{ column_name }} as from_field
        from {{ model }}
        where {{ column_name }} is not null
    ),

    parent as materialized (
        select {{ field }} as to_field
        from {{ to }}
        where {{ field }} in (select child.from_field from child)
    )

    select child.from_field
    from child
    left join parent on child.from_field = parent.to_field
    where parent.to_field is null
{% endmacro %}
