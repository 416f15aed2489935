{#
    The surrogate key of the "unknown" member of every dimension.
#}
{% macro unknown_sk() -%}
    -1
{%- endmacro %}
