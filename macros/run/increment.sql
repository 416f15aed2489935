{#
    What a node has to take in, as a dictionary with landing_run_id and run_id (everything later is new to it), data_day
    (the day of the data that it has taken in) and has_changes (whether there may be anything), or none when it has to
    compute everything: it is new, its definition changed, a relation it reads was rebuilt, the run reconciles, or
    --full-refresh was given. Commands that only compile, and runs with --empty, see none, and so the complete definition.

    Use: {% set since = increment() %} … {% if since %} where _run_id > {{ since.landing_run_id }} {% endif %}
    The numbers are literals in the compiled SQL because the planner misjudges a sub-query in their place.

    config follows_calendar: computed in full when the data's month is an earlier one. recomputed_monthly: in full also
    when a month has passed.
#}
{% macro increment() %}
    {% if not execute or not is_recorded_run() or model.resource_type not in ('model', 'snapshot')
            or model.get('computes_in_full') or should_full_refresh() or var('reconcile') or not reads_everything() %}
        {{ return(none) }}
    {% endif %}
    {% set node = node_state() %}
    {% set state = node.state %}
    {% if not node.is_complete or not node.is_as_made or state is none or content_of(state['definition_hash']) != content_of(node.definition_hash) %}
        {{ return(none) }}
    {% endif %}
    {% if node.parents_made > state['run_id'] | int %}
        {{ return(none) }}
    {% endif %}
    {% if config.get('follows_calendar') and (node.went_back or state['data_day'] is none) %}
        {{ return(none) }}
    {% endif %}
    {% if config.get('recomputed_monthly') and (node.went_back or node.month_passed) %}
        {{ return(none) }}
    {% endif %}
    {{ return({
        'run_id': state['run_id'] | int,
        'landing_run_id': state['landing_run_id'] | int,
        'data_day': state['data_day'],
        'has_changes': node.has_changes
    }) }}
{% endmacro %}
