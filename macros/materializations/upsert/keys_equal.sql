{#
    on clause: the keys of two aliases are equal.
#}
{% macro keys_equal(keys, left, right) -%}
    {%- for key in keys -%}
        {{ left }}.{{ key }} = {{ right }}.{{ key }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
