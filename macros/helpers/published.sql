{#
    The published copy of a mart, which the dashboard views read. For a dashboard view's SQL: the view then depends on the
    mart, whose figures it shows, and on published_state, which brings them.

    published('agg_loans') -> publish.agg_loans
#}
{% macro published(model_name) -%}
    {%- set mart = ref(model_name) -%}
    {%- set step = ref('published_state') -%}
    {{ published_relation(model_name) }}
{%- endmacro %}

{#
    The name of the published copy of a mart, where no dependency is meant.
#}
{% macro published_relation(model_name) %}
    {{ return((schema_in_target('publish', target.name, target.schema) | trim) ~ '.' ~ model_name) }}
{% endmacro %}
