{#
    The name of a schema in a target. Whatever the schema of another target is called, its names are not production's.

    schema_in_target('audit', 'prod', 'warehouse') -> audit
    schema_in_target('audit', 'dev', 'dev') -> dev_audit
#}
{% macro schema_in_target(schema_name, target_name, target_schema) -%}
    {%- set known = graph.setdefault('production_targets', {}) -%}
    {%- if target_name not in known -%}
        {%- do known.update({target_name: is_production(target_name)}) -%}
    {%- endif -%}
    {%- if known[target_name] -%}
        {{ schema_name | trim }}
    {%- else -%}
        {{ target_schema | trim }}_{{ schema_name | trim }}
    {%- endif -%}
{%- endmacro %}
