{#
    Where this target keeps the record of its runs and the state of its models.
#}
{% macro audit_schema() -%}
    {{ schema_in_target('audit', target.name, target.schema) }}
{%- endmacro %}
