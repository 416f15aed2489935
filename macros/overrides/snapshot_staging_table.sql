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
        {% if not since and landing_was_compared() %}
            {% do run_statement(lost_entities(strategy.unique_key, target_relation, changed)) %}
        {% endif %}
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

{#
    The statement that adds, to the rows that a snapshot compares, those of its entities that its query knows nothing of, as
    deleted: their landing rows are gone without a trace, with an older copy of the landing table put back by hand. It would
    hold them to be current for ever.
#}
{% macro lost_entities(key, snapshot, changed) %}
    {% set now = "greatest(statement_timestamp(), version." ~ config.get('updated_at') ~ " + interval '1 microsecond')" %}
    insert into {{ changed }}
    select (jsonb_populate_record(
        null::{{ changed }},
        to_jsonb(version) || jsonb_build_object(
            'is_deleted', true, {{ sql_literal(config.get('updated_at')) }}, {{ now }}, '_run_id', {{ landing_run_id() }}
        )
    )).*
    from {{ snapshot }} as version
    where version.dbt_valid_to = {{ config.get('dbt_valid_to_current') }}
        and not version.is_deleted
        and not exists (select from {{ changed }} as present where present.{{ key }} = version.{{ key }})
{% endmacro %}

{#
    Whether this run has compared all landing rows with the source.
#}
{% macro landing_was_compared() %}
    {% set question %}
        select coalesce(bool_or(extraction_mode in ('reconcile', 'first load')), false) as was_compared
        from {{ audit_schema() }}.etl_runs
        where dbt_invocation_id = {{ sql_literal(invocation_id) }}
    {% endset %}
    {{ return(first_row(question)['was_compared']) }}
{% endmacro %}
