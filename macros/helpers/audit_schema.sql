{#
    Where this target keeps the record of its runs and the state of its models. Found once per run, which asks for it some
    hundred times.
#}
{% macro audit_schema() -%}
    {%- if 'audit_schema' not in graph -%}
        {%- do graph.update({'audit_schema': schema_in_target('audit', target.name, target.schema) | trim}) -%}
    {%- endif -%}
    {{ graph['audit_schema'] }}
{%- endmacro %}
