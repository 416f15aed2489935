{#
    Raise unless every mart has taken in the landing tables' present state, the month of the data and all that its parents
    have: a build of a part of the project must not publish marts that disagree.
#}
{% macro assert_marts_are_complete() %}
    {% set names = [] %}
    {% set edges = [] %}
    {% set monthly = ["''"] %}
    {% set summaries = node_summaries() %}
    {% for node_id, node in summaries.items() if node.materialized == 'upsert' %}
        {% do names.append(sql_literal(node.name)) %}
        {% if node.is_monthly %}
            {% do monthly.append(sql_literal(node.name)) %}
        {% endif %}
        {% for parent_id in node.parents %}
            {% set parent = summaries.get(parent_id, {}) %}
            {% if parent.get('materialized') in ('upsert', 'snapshot') %}
                {% do edges.append("(" ~ sql_literal(parent.name) ~ ", " ~ sql_literal(node.name) ~ ")") %}
            {% endif %}
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
        union all
        select state.model_name || ' has not taken in the month of the data'
        from {{ audit_schema() }}.model_states as state
        where state.model_name in ({{ monthly | join(', ') }})
            and date_trunc('month', state.data_day) is distinct from date_trunc('month', {{ data_day() }})
    {% endset %}
    {% set behind = run_query(question) %}
    {% if behind.rows | length > 0 %}
        {{ exceptions.raise_compiler_error(
            "Not published: " ~ behind.columns[0].values() | join('; ') ~ ". The dashboards keep their last state; "
            ~ "dbt build (without --select) brings everything to one state."
        ) }}
    {% endif %}
{% endmacro %}
