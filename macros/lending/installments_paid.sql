{#
    How many instalments of a schedule are paid: oldest first, one is paid when the money so far reaches the cumulative due
    (less the tolerance), or the principal paid so far reaches its cumulative principal. The last one is not paid while
    principal is owed. Instalments of nothing at the start are paid, also when more was taken back than there was.

    money: principal and interest paid. principal: principal paid. owed: principal owed. All are SQL expressions in cents.
    schedule: the alias of int_loan_schedules.
#}
{% macro installments_paid(money, principal, owed, schedule) -%}
    greatest(
        least(
            greatest(
                width_bucket(greatest({{ money }} + {{ lending_settings().tolerance }}::bigint, 0), {{ schedule }}.cum_due),
                width_bucket(
                    greatest({{ principal }}, 0), coalesce({{ schedule }}.principal_steps, {{ schedule }}.cum_principal)
                )
            ),
            {{ schedule }}.installment_count - ({{ owed }} > 0)::integer
        ), 0
    )
{%- endmacro %}
