{#
    dbt's snapshot compares with all current rows of the snapshot. Our snapshots' queries give changed rows only, so the
    other side is narrowed to the same keys: the cost follows the change.
#}
{% macro postgres__snapshot_staging_table(strategy, source_sql, target_relation) %}
    {% set narrowed %}
        (
            select * from {{ target_relation }}
            where {{ strategy.unique_key }} in (select {{ strategy.unique_key }} from ({{ source_sql }}) as changed)
        ) as narrowed
    {% endset %}
    {{ return(default__snapshot_staging_table(strategy, source_sql, narrowed)) }}
{% endmacro %}
