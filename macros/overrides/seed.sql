{#
    A seed is loaded when its file or its column types changed, not in every run: a run without a change writes nothing. A
    reconcile compares the rows too, and loads the file when somebody changed them.
    Before anything is written the file is checked, and the table gets the columns that the YAML describes.
#}
{% materialization seed, adapter='postgres' %}
    {% set state = model_state(model.name) %}
    {% set hash = local_md5(model.checksum.checksum ~ config.get('column_types')) %}
    {% set rows = load_agate_table() %}
    {% set exists = load_cached_relation(this) is not none %}
    {% set known = exists and reads_everything() and state is not none and state['definition_hash'] == hash %}
    {% set repaired = known and var('reconcile') and seed_rows_differ(rows) %}
    {% if exists and (not reads_everything() or (known and not should_full_refresh() and not repaired)) %}
        {# dbt's seed task reads this result. #}
        {% do store_result('agate_table', response='OK', agate_table=rows) %}
        {% call statement('main') %}
            select 'unchanged' as note
        {% endcall %}
        {{ return({'relations': [this.incorporate(type='table')]}) }}
    {% endif %}
    {% set run_id = assert_run_is_ours() %}
    {% do assert_seed_is_sound(rows) %}
    {% do alter_seed_table() %}
    {% set loaded = dbt.materialization_seed_default() %}
    {% if reads_everything() %}
        {# Rebuilt: the models that read it are computed in full. #}
        {% do run_statement(save_model_state(model.name, run_id, hash, rebuilt=true, repaired=repaired) ~ '; commit') %}
    {% endif %}
    {{ return({'relations': [this.incorporate(type='table')]}) }}
{% endmaterialization %}

{#
    Whether the rows or the columns of a seed's table are not those of its file. Rows are compared as JSON objects, which
    says so too where a column was added, dropped or retyped.

    rows: the agate table of the file.
#}
{% macro seed_rows_differ(rows) %}
    {% set lines, columns, values = [], [], [] %}
    {% for row in rows.rows %}
        {% do lines.append(row.values() | list) %}
    {% endfor %}
    {% for name in rows.column_names %}
        {% do columns.append(name) %}
        {% do values.append('(line ->> ' ~ loop.index0 ~ ')::' ~ config.get('column_types').get(name, 'text')) %}
    {% endfor %}
    {% set comparison %}
        with present as (select to_jsonb(present) as content from {{ this }} as present),

        wanted as (
            select to_jsonb(wanted) as content
            from (
                select {{ values | join(', ') }} from json_array_elements({{ sql_literal(tojson(lines)) }}) as line
            ) as wanted ({{ columns | join(', ') }})
        )

        select exists (
            (select content from present except all select content from wanted)
            union all
            (select content from wanted except all select content from present)
        ) as differ
    {% endset %}
    {{ return(first_row(comparison)['differ']) }}
{% endmacro %}
