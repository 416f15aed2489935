{#
    The loan officer of a row of loans, as text: unassigned where the source names none. Cut after 255 characters: it is
    part of keys, and no index takes more than some thousand bytes.

    loans: the alias of what has the source's column loan_officer.
#}
{% macro officer_of(loans) -%}
    coalesce(nullif(left(trim({{ loans }}.loan_officer), 255), ''), 'unassigned')
{%- endmacro %}
