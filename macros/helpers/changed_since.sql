{#
    A condition on landing rows (a relation with _run_id): those that a snapshot has not taken in yet.
    Commands that only compile see all rows.

    changed_since('customers_snapshot') -> _run_id > 41
#}
{% macro changed_since(model_name) -%}
    {%- set state = model_state(model_name) if is_recorded_run() else none -%}
    {%- if state is not none -%}
        _run_id > {{ state['landing_run_id'] }}
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}
