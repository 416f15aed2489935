{#
    Whether a target is the warehouse itself, which extracts and has the plain schema names: on one server (prod), or on
    a cluster (citus).
#}
{% macro is_production(target_name) %}
    {{ return(target_name in ('prod', 'citus')) }}
{% endmacro %}
