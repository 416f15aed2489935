{#
    The surrogate key of a version of a type 2 dimension: the entity's key and the version's number, so that it is
    unique by construction, the same after a rebuild, and readable: version 3 of customer 17 is 17000003.

    entity_id, version_number: SQL expressions; at most 999 999 versions of one entity. An entity without versions
    (a product) has number 0. No key is ever that of the unknown member, also not for negative ids.
#}
{% macro version_sk(entity_id, version_number) -%}
    ({{ entity_id }}::bigint * 1000000 + {{ version_number }})
{%- endmacro %}
