{#
    What a model is made of, in one short text: its SQL (with that of ephemeral parents), columns, types, constraints,
    indexes and grants; a snapshot's keys and compared columns. When it changes, the model is computed anew, in place.
#}
{% macro definition_hash() %}
    {% set parts = [model.raw_code, model.columns | string, model.constraints | string, model.description,
                    config.get('indexes') | string, config.get('grants') | string] %}
    {% if model.resource_type == 'snapshot' %}
        {% do parts.extend([config.get('strategy'), config.get('unique_key') | string, config.get('updated_at'),
                            config.get('check_cols') | string]) %}
    {% endif %}
    {% for node_id in model.depends_on.nodes %}
        {% if node_id in graph.nodes and graph.nodes[node_id].config.materialized == 'ephemeral' %}
            {% do parts.append(graph.nodes[node_id].raw_code) %}
        {% endif %}
    {% endfor %}
    {{ return(local_md5(parts | join('|'))) }}
{% endmacro %}
