{#
    A condition on a key: its landing row, or its row in a mart, changed since the last published state. A state that
    failed its tests was not published, so its rows are looked at again. Where a relation that the test reads got other
    rows since then by something else than an increment (a changed rule, a repair), it looks at everything; and so do
    `dbt test` and a build with full_tests.

    mart: the name of a model with log_changes, whose rows also change with those of others (a payment's with its loan's).

    changed_since_published('loan_id', 'operational.loans', 'fact_loans')
        -> loan_id in (select loan_id from operational.loans where _run_id > 41
                       union all select loan_id from changes.fact_loans where _run_id > 42)
    changed_since_published()  (the relation has _run_id itself)
        -> _run_id > 41
#}
{% macro changed_since_published(key=none, landing=none, mart=none) -%}
    {%- set published = none if tests_look_at_everything() else published_before_test() -%}
    {%- if published is none or published['has_recomputed'] -%}
        true
    {%- elif key is none -%}
        _run_id > {{ published['landing_run_id'] }}
    {%- else -%}
        {{ key }} in (
            select {{ key }} from {{ landing }} where _run_id > {{ published['landing_run_id'] }}
            {%- if mart is not none %}
            union all
            select {{ key }} from {{ changes_of(mart) }} where _run_id > {{ published['run_id'] }}
            {%- endif %}
        )
    {%- endif -%}
{%- endmacro %}

{#
    The last published state, as a dictionary, or none: run_id, landing_run_id, and has_recomputed, whether rows of a relation that
    the present test reads have changed since otherwise than by an increment.
#}
{% macro published_before_test() %}
    {% set parents = ["''"] %}
    {% for node_id in model.depends_on.nodes %}
        {% do parents.append(sql_literal(node_id.split('.')[-1])) %}
    {% endfor %}
    {% set question %}
        select
            published.run_id,
            published.landing_run_id,
            exists (
                select from {{ audit_schema() }}.model_states as parent
                where parent.model_name in ({{ parents | join(', ') }})
                    and parent.recomputed_run_id > published.run_id
            ) as has_recomputed
        from {{ audit_schema() }}.model_states as published
        where published.model_name = 'published_state'
    {% endset %}
    {{ return(first_row(question)) }}
{% endmacro %}
