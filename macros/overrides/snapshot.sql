{#
    dbt's snapshot, but when no landing row has changed since it last finished: then there is nothing to compare.
#}
{% materialization snapshot, adapter='postgres' %}
    {% set node = node_state() %}
    {% if node.exists and node.state is not none and not node.has_changes
            and node.state['definition_hash'] == definition_hash() %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': [this.incorporate(type='table')]}) }}
    {% endif %}
    {{ return(dbt.materialization_snapshot_default()) }}
{% endmaterialization %}
