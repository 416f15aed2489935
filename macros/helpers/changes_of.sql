{#
    The change log of a model that is configured with log_changes: its columns, _run_id, and _sign (-1 as it was, +1 as
    it became).

    changes_of('fact_payments') -> changes.fact_payments
#}
{% macro changes_of(model_name) -%}
    {{ schema_in_target('changes', target.name, target.schema) }}.{{ model_name }}
{%- endmacro %}
