{#
    A condition on a key: its landing row changed since the last published state. A state that failed its tests was not
    published, so its rows are looked at again. `dbt test`, and a build with full_tests, look at everything.

    changed_since_published('loan_id', 'operational.loans')
        -> loan_id in (select loan_id from operational.loans where _run_id > 41)
    changed_since_published()  (the relation has _run_id itself)
        -> _run_id > 41
#}
{% macro changed_since_published(key=none, landing=none) -%}
    {%- set published = none if tests_look_at_everything() else model_state('published_state') -%}
    {%- if published is none -%}
        true
    {%- elif key is none -%}
        _run_id > {{ published['landing_run_id'] }}
    {%- else -%}
        {{ key }} in (select {{ key }} from {{ landing }} where _run_id > {{ published['landing_run_id'] }})
    {%- endif -%}
{%- endmacro %}
