{#
    The loan officer of a row of loans, as text: unassigned where the source names none.

    loans: the alias of what has the source's column loan_officer.
#}
{% macro officer_of(loans) -%}
    coalesce(nullif(trim({{ loans }}.loan_officer), ''), 'unassigned')
{%- endmacro %}
