{#
    What a node has to take in, as a dictionary with landing_run_id and run_id (everything later is new to it) and
    has_changes (whether there may be anything), or none when it has to compute everything: it is new, its definition
    changed, a relation it reads was rebuilt, the run reconciles, or --full-refresh was given. Commands that only compile,
    and runs with --empty, see none, and so the complete definition.

    Use: {% set since = increment() %} … {% if since %} where _run_id > {{ since.landing_run_id }} {% endif %}
    The numbers are literals in the compiled SQL because the planner misjudges a sub-query in their place.

    seen: what node_state() returned, when it was asked already.
#}
{% macro increment(seen=none) %}
    {% if not execute or not is_recorded_run() or model.resource_type not in ('model', 'snapshot')
            or model.get('computes_in_full') or should_full_refresh() or var('reconcile') or not reads_everything() %}
        {{ return(none) }}
    {% endif %}
    {% set node = seen or node_state() %}
    {% set state = node.state %}
    {% if not node.is_complete or state is none or content_of(state['definition_hash']) != content_of(node.definition_hash) %}
        {{ return(none) }}
    {% endif %}
    {% if node.parents_made > state['run_id'] | int %}
        {{ return(none) }}
    {% endif %}
    {{ return({'run_id': state['run_id'] | int, 'landing_run_id': state['landing_run_id'] | int, 'has_changes': node.has_changes}) }}
{% endmacro %}
