{#
    dbt's snapshot, but skipped when no landing row has changed since it last finished: then there is nothing to compare.
    When its definition changed, the current versions follow the new rules in place: a new rule is no change of a customer.
#}
{% materialization snapshot, adapter='postgres' %}
    {% set node = node_state() %}
    {% set since = increment() %}
    {% if node.exists and (not reads_everything() or (since and not node.has_changes)) %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': [this.incorporate(type='table')]}) }}
    {% endif %}
    {% set corrected = correct_current_versions(node.state['landing_run_id']) if node.exists and node.state is not none and not since else 0 %}
    {# For the post-hook, which saves the state. #}
    {% do model.update({'rebuilt': corrected > 0 or not node.exists, 'saved_hash': node.definition_hash}) %}
    {{ return(dbt.materialization_snapshot_default()) }}
{% endmaterialization %}

{#
    Bring the current versions of rows that the snapshot has already taken in to what its query makes of them now.
    Versions that ended stay as they were seen. Returns how many rows changed.
#}
{% macro correct_current_versions(landing_run_id) %}
    {% set key = config.get('unique_key') %}
    {% set source = graph.nodes[model.depends_on.nodes[0]].relation_name %}
    {% for column in run_query(differing_columns(this.render(), source)).rows if column['wanted'] is not none %}
        {% if column['present'] is none %}
            {% do run_ddl(this, "alter table " ~ this ~ " add column " ~ column['name'] ~ " " ~ column['wanted']) %}
        {% elif column['present'] != column['wanted'] %}
            {% do run_ddl(this, "alter table " ~ this ~ " alter column " ~ column['name'] ~ " type " ~ column['wanted']
                ~ " using " ~ column['name'] ~ "::" ~ column['wanted']) %}
        {% endif %}
    {% endfor %}
    {% set names = [] %}
    {% for column in adapter.get_columns_in_relation(api.Relation.create(
            database=model.database, schema=source.split('.')[-2].strip('"'), identifier=source.split('.')[-1].strip('"')))
            if column.name not in (key, config.get('updated_at'), '_run_id') %}
        {% do names.append(column.name) %}
    {% endfor %}
    {% set assignments = [] %}
    {% for name in names %}
        {% do assignments.append(name ~ ' = source.' ~ name) %}
    {% endfor %}
    {% set correction %}
        with corrected as (
            update {{ this }} as version
            set {{ assignments | join(', ') }}
            from {{ source }} as source
            where source.{{ key }} = version.{{ key }}
                and source._run_id <= {{ landing_run_id }}
                and version.dbt_valid_to = {{ config.get('dbt_valid_to_current') }}
                and ({{ comma_list(names, 'version') }}) is distinct from ({{ comma_list(names, 'source') }})
            returning 1
        )

        select count(*) as corrected from corrected
    {% endset %}
    {{ return(first_row(correction)['corrected'] | int) }}
{% endmacro %}
