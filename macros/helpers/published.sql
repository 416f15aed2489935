{#
    The published copy of a mart, which the dashboard views read. A view that uses it depends on published_state.

    published('agg_loans') -> publish.agg_loans
#}
{% macro published(model_name) -%}
    {{ schema_in_target('publish', target.name, target.schema) }}.{{ model_name }}
{%- endmacro %}
