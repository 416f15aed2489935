{#
    Raise unless every test in front of published_state has passed for what is to be published. untested: what
    untested_nodes() returned.
#}
{% macro assert_state_is_tested(untested) %}
    {% if untested %}
        {{ exceptions.raise_compiler_error(
            "Not published: " ~ untested | length ~ " tests have not passed since the rows that they look at last changed: "
            ~ untested[:5] | join(', ') ~ (', …' if untested | length > 5) ~ ". The dashboards keep their last state; "
            ~ "dbt build (without --select and --exclude) runs the tests and publishes."
        ) }}
    {% endif %}
{% endmacro %}

{#
    The names of the tests in front of this model that have not passed for the present state, those that failed first.

    A test that this build has selected has passed, or this model would have been skipped. Any other one must have passed,
    by the record of the runs (audit.model_runs), in or after the last run that changed one of the relations it reads.
    What changed before the last publication was tested then, unless the test is a new one, or has failed since (is_proven).
#}
{% macro untested_nodes() %}
    {% set ancestors = ancestors_of(model.unique_id) %}
    {% set edges = [] %}
    {% set summaries = node_summaries() %}
    {% for test_id, test in summaries.items() if test.is_error_test %}
        {% set parents = test.parents %}
        {% if parents and parents | reject('in', ancestors) | list | length == 0
                and (flags.WHICH != 'build' or test_id not in selected_resources) %}
            {% for parent_id in parents %}
                {% set materialized = summaries.get(parent_id, {}).get('materialized') %}
                {% set edge %}
                    (
                        {{ sql_literal(test_id) }},
                        {{ sql_literal(test.name) }},
                        {{ sql_literal(parent_id.split('.')[-1]) }},
                        {{ materialized in ('upsert', 'seed') }},
                        {{ is_proven(test_id) }}
                    )
                {% endset %}
                {% do edges.append(edge) %}
            {% endfor %}
        {% endif %}
    {% endfor %}
    {% if not edges %}
        {{ return([]) }}
    {% endif %}
    {% set question %}
        with edge (test_id, test_name, parent_name, keeps_record, is_proven) as (values {{ edges | join(', ') }}),

        published as (
            select coalesce(max(run_id), 0) as run_id
            from {{ audit_schema() }}.model_states
            where model_name = {{ sql_literal(model.name) }}
        ),

        -- Of what writes rows the record says when; anything else follows the landing tables and its own definition.
        changed as (
            select
                edge.test_id,
                edge.test_name,
                edge.is_proven,
                max(greatest(
                    case when edge.keeps_record then state.created_run_id else state.run_id end,
                    case when not edge.keeps_record then {{ landing_run_id() }} end,
                    (
                        select max(written.run_id) from {{ audit_schema() }}.model_runs as written
                        where written.run_id > published.run_id
                            and written.node_name = edge.parent_name
                            and written.rows_inserted + written.rows_updated + written.rows_deleted > 0
                    )
                )) as run_id
            from edge
            cross join published
            left join {{ audit_schema() }}.model_states as state on edge.parent_name = state.model_name
            group by edge.test_id, edge.test_name, edge.is_proven
        )

        select changed.test_name
        from changed
        cross join published
        left join lateral (
            select recorded.status
            from {{ audit_schema() }}.model_runs as recorded
            where recorded.run_id >= changed.run_id and recorded.node_id = changed.test_id
                and recorded.status in ('pass', 'warn', 'fail', 'error')
            order by recorded.run_id desc
            limit 1
        ) as last_result on true
        where not changed.is_proven
            or (changed.run_id > published.run_id and coalesce(last_result.status not in ('pass', 'warn'), true))
        -- What failed comes before what was not run.
        order by last_result.status is null, changed.test_name
    {% endset %}
    {{ return(run_query(question).columns[0].values() | list) }}
{% endmacro %}

{#
    The unique ids of everything that a node of the project depends on, directly or not, as a list.
#}
{% macro ancestors_of(unique_id) %}
    {% set found = [] %}
    {% set open = [unique_id] %}
    {% set summaries = node_summaries() %}
    {% for step in range(summaries | length) if open %}
        {% set node_id = open.pop() %}
        {% for parent_id in summaries.get(node_id, {}).get('parents', []) if parent_id not in found %}
            {% do found.append(parent_id) %}
            {% do open.append(parent_id) %}
        {% endfor %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}
