{#
    Raise unless every mart has taken in the landing tables' present state and all that its parents have: a build of a
    part of the project must not publish marts that disagree.
#}
{% macro assert_marts_are_complete() %}
    {% set names = [] %}
    {% set edges = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'upsert' %}
        {% do names.append(sql_literal(node.name)) %}
        {% for parent_id in node.depends_on.nodes
                if parent_id in graph.nodes and graph.nodes[parent_id].config.materialized in ('upsert', 'snapshot') %}
            {% do edges.append("(" ~ sql_literal(graph.nodes[parent_id].name) ~ ", " ~ sql_literal(node.name) ~ ")") %}
        {% endfor %}
    {% endfor %}
    {% set question %}
        with edge (parent, child) as (values {{ edges | join(', ') }}),

        mart (model_name) as (select unnest(array[{{ names | join(', ') }}]))

        select edge.child || ' has not taken in what ' || edge.parent || ' has' as problem
        from edge
        inner join {{ audit_schema() }}.model_states as parent on edge.parent = parent.model_name
        left join {{ audit_schema() }}.model_states as child on edge.child = child.model_name
        where coalesce(child.run_id, 0) < parent.run_id
        union all
        select mart.model_name || ' has not taken in the last extraction'
        from mart
        left join {{ audit_schema() }}.model_states as state on mart.model_name = state.model_name
        where coalesce(state.landing_run_id, -1) < {{ landing_run_id() }}
    {% endset %}
    {% set behind = run_query(question) %}
    {% if behind.rows | length > 0 %}
        {{ exceptions.raise_compiler_error(
            "Not published: " ~ behind.columns[0].values() | join('; ') ~ ". The dashboards keep their last state; "
            ~ "dbt build (without --select) brings everything to one state."
        ) }}
    {% endif %}
{% endmacro %}
