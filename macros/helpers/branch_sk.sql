{#
    The surrogate key of a branch: 60 bits of the code's hash, so that a fact finds it without a join and a rebuild
    gives the same keys. Null (no branch) is the unknown member. dim_branch's unique constraint would show a collision.

    branch_code: an SQL expression of type text.
#}
{% macro branch_sk(branch_code) -%}
    coalesce(('x' || substr(md5({{ branch_code }}), 1, 15))::bit(60)::bigint, {{ unknown_sk() }})
{%- endmacro %}
