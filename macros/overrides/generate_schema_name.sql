{#
    The schema of a node: the plain name in target prod (staging, snapshots, warehouse, …), prefixed with the target's
    schema elsewhere (dev_staging, …), so that two targets share nothing but the landing tables.

    generate_schema_name('staging', node) -> 'staging' in prod, 'dev_staging' in dev
#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ schema_in_target(custom_schema_name, target.name, target.schema) if custom_schema_name else target.schema }}
{%- endmacro %}
