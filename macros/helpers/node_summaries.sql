{#
    The nodes of the project as a dictionary by their ids: name, materialized, parents (ids), on_error, is_error_test
    (whether it is a test whose failure is an error), definition (of a test, as a hash), is_monthly (whether a month that has ended changes its rows).
    Collected once per run: the graph converts a node to a dictionary each time that it is asked for one.
#}
{% macro node_summaries() %}
    {% if 'node_summaries' not in graph %}
        {% set found = {} %}
        {% for node in graph.nodes.values() %}
            {% do found.update({node.unique_id: {
                'name': node.name, 'materialized': node.config.materialized, 'parents': node.depends_on.nodes,
                'on_error': node.config.get('on_error'),
                'is_error_test': node.resource_type == 'test' and node.config.severity | lower == 'error',
                'definition': test_definition_hash(node) if node.resource_type == 'test' else none,
                'is_monthly': node.config.get('follows_calendar', false) or node.config.get('recomputed_monthly', false)
            }}) %}
        {% endfor %}
        {% do graph.update({'node_summaries': found}) %}
    {% endif %}
    {{ return(graph['node_summaries']) }}
{% endmacro %}
