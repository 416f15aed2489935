{#
    dbt's snapshot compares all rows of its query with all current rows of the snapshot. Here the query is narrowed to the
    rows that changed since the snapshot last finished, and the other side to the same keys: the cost follows the change.

    The changed rows go into a temporary table first. dbt's query reads them twice, and joins what the planner knows
    nothing of; with the table's statistics it joins by hash (20 000 changed loans: 0.3 s, and 78 s without).
#}
{% macro postgres__snapshot_staging_table(strategy, source_sql, target_relation) %}
    {% set changed = target_relation.identifier ~ '__changed' %}
    {% set compared = target_relation.identifier ~ '__compared' %}
    {% if not relation_exists('pg_temp.' ~ changed) %}
        {% set since = increment() %}
        {% set rows_changed %}
            create temporary table {{ changed }} on commit drop as
            select * from ({{ source_sql }}) as source
            {% if since %}
            where _run_id > {{ since.landing_run_id }}
            {% endif %}
        {% endset %}
        {% do run_statement(rows_changed) %}
        {% do analyze_small_sample(changed) %}
        {% set rows_compared %}
            create temporary table {{ compared }} on commit drop as
            select * from {{ target_relation }}
            where {{ strategy.unique_key }} in (select {{ strategy.unique_key }} from {{ changed }})
        {% endset %}
        {% do run_statement(rows_compared) %}
        {% do analyze_small_sample(compared) %}
    {% endif %}
    {{ return(default__snapshot_staging_table(strategy, 'select * from ' ~ changed, compared)) }}
{% endmacro %}
