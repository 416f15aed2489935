{#
    What fell due before a day and is not paid, in cents: what is due less the greater of the money paid and what the paid
    instalments amount to; after the last due date at least the principal owed.

    schedule: the alias of int_loan_schedules. day, money, owed, installments_paid: SQL expressions, amounts in cents.
#}
{% macro overdue_by(schedule, day, money, owed, installments_paid) -%}
    case
        when {{ schedule }}.installment_count = 0 or {{ owed }} <= 0 then 0
        else greatest(
            {{ due_by(schedule, day ~ ' - 1') }}
            - greatest({{ money }}, coalesce({{ schedule }}.cum_due[{{ installments_paid }}], 0)),
            case
                when {{ day }} > {{ schedule }}.due_dates[{{ schedule }}.installment_count] then {{ owed }}
                else 0
            end,
            0
        )
    end
{%- endmacro %}
