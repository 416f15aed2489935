{#
    What is due, in cents, by a schedule up to and with a day.

    schedule: the alias of int_loan_schedules. day: an SQL expression of type date.
#}
{% macro due_by(schedule, day) -%}
    coalesce({{ schedule }}.cum_due[width_bucket({{ day }}, {{ schedule }}.due_dates)], 0)
{%- endmacro %}
