{#
    The surrogate key of a version of an entity whose id is an integer: the id and the version's number, so that it is
    unique by construction, the same after a rebuild, and readable: version 3 of customer 17 is 17000003.

    entity_id, version_number: SQL expressions. An entity without versions (a product) has number 0. Versions beyond
    versions_per_key() continue as those of the id that is 2^32 greater, which no integer is. No key is ever that of the
    unknown member: -1 would be number 999999 of id -1. Ids of type bigint: see loan_sk.
#}
{% macro version_sk(entity_id, version_number) -%}
    (({{ entity_id }}::bigint + ({{ version_number }} - 1) / {{ versions_per_key() }} * 4294967296) * 1000000
    + ({{ version_number }} - 1) % {{ versions_per_key() }} + 1)
{%- endmacro %}

{#
    How many versions of one entity have keys that are made of its id.
#}
{% macro versions_per_key() -%}
    900000
{%- endmacro %}
