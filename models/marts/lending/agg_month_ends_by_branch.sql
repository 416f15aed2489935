{{
    config(
        unique_key=['month_end', 'branch_sk'],
        log_changes=true,
        accumulate=[
            'loan_count', 'gross_loan_portfolio', 'scheduled_portfolio', 'par_1', 'par_30',
            'par_60', 'par_90', 'par_180', 'overdue_amount', 'due_amount',
            'paid_on_time', 'paid_of_due', 'paid_of_arrears', 'paid_ahead', 'written_off_amount', 'recovered_amount'
        ],
        delete_when='loan_count = 0'
    )
}}

{% set since = increment() %}

{# What the views by month read: some thousand rows instead of the hundred thousand of agg_month_ends. #}
with groups as (
    {{ signed_rows('agg_month_ends', since) }}
),

final as (
    select
        month_end,
        branch_sk,
        sum(_sign * loan_count)::bigint as loan_count,
        sum(_sign * outstanding_principal) as gross_loan_portfolio,
        sum(case when has_schedule then _sign * outstanding_principal else 0 end) as scheduled_portfolio,
        sum(
            case
                when state not in ('current', 'repaid', 'written_off')
                    then _sign * outstanding_principal
                else 0
            end
        ) as par_1,
        sum(
            case
                when state in ('31-60', '61-90', '91-180', '181-360', 'over_360')
                    then _sign * outstanding_principal
                else 0
            end
        ) as par_30,
        sum(
            case
                when state in ('61-90', '91-180', '181-360', 'over_360')
                    then _sign * outstanding_principal
                else 0
            end
        ) as par_60,
        sum(
            case
                when state in ('91-180', '181-360', 'over_360')
                    then _sign * outstanding_principal
                else 0
            end
        ) as par_90,
        sum(case when state in ('181-360', 'over_360') then _sign * outstanding_principal else 0 end) as par_180,
        sum(_sign * overdue_amount) as overdue_amount,
        sum(_sign * due_amount) as due_amount,
        sum(_sign * paid_on_time) as paid_on_time,
        sum(_sign * paid_of_due) as paid_of_due,
        sum(_sign * paid_of_arrears) as paid_of_arrears,
        sum(_sign * paid_ahead) as paid_ahead,
        sum(_sign * written_off_amount) as written_off_amount,
        sum(_sign * recovered_amount) as recovered_amount
    from groups
    group by month_end, branch_sk
)

select
    month_end,
    branch_sk,
    loan_count,
    gross_loan_portfolio,
    scheduled_portfolio,
    par_1,
    par_30,
    par_60,
    par_90,
    par_180,
    overdue_amount,
    due_amount,
    paid_on_time,
    paid_of_due,
    paid_of_arrears,
    paid_ahead,
    written_off_amount,
    recovered_amount
from final
