{#
    The columns of a branch in a dashboard view: branch (name and code, or the code alone when the seed has no name for
    it), branch_code and region.

    branches: the alias of dim_branch.
#}
{% macro branch_columns(branches) -%}
    case
        when {{ branches }}.branch_name = {{ branches }}.branch_code then {{ branches }}.branch_code
        else {{ branches }}.branch_name || ' (' || {{ branches }}.branch_code || ')'
    end as branch,
    {{ branches }}.branch_code,
    coalesce({{ branches }}.region, 'No region') as region
{%- endmacro %}
