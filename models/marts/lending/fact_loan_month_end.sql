{{
    config(
        unique_key=['loan_id', 'month_end'],
        log_changes=true,
        follows_calendar=true,
        indexes=[{'columns': ['month_end']}]
    )
}}

{% set since = increment() %}
{# The months that have ended by the day of the data. #}
{% set last_month_end = "(date_trunc('month', " ~ data_day() ~ "::timestamp)::date - 1)" %}
{% set first_new_day %}
{% if since %}(date_trunc('month', date '{{ since.data_day }}'::timestamp)::date){% endif %}
{% endset %}

{#
    A loan's months are computed again, from its disbursement on, when something changed on a day of a month that has
    ended: a payment of such a day (as it was or as it is), the anchor of the counting back (balance and principal paid: a
    payment changes both and leaves their sum, a correction moves it), its schedule or days, or the version of it or of
    its customer that was valid at a month's end. When a month has ended, it is appended for the loans that were in the portfolio, or in which something
    came.
#}
{% if since %}
{% set keys %}
with payments as (
    select loan_id
    from {{ changes_of('fact_payments') }}
    where _run_id > {{ since.run_id }}
    group by loan_id, {{ business_day('payment_date') }}
    having
        {{ business_day('payment_date') }} <= {{ last_month_end }}
        and (sum(_sign * principal_amount) <> 0 or sum(_sign * interest_amount) <> 0)
),

loans as (
    select loan_id
    from {{ changes_of('fact_loans') }}
    where _run_id > {{ since.run_id }}
    group by loan_id
    having
        sum(_sign) <> 0
        or count(distinct principal_owed + principal_paid) > 1
        or count(distinct principal_amount) > 1
        or count(distinct schedule_source) > 1
),

versions as (
    {{ changed_validity('dim_loan', 'loan_id', 'loan_sk', since) }}
),

customers as (
    {{ changed_validity('dim_customer', 'customer_id', 'customer_sk', since) }}
),

restated as (
    select loan_id from payments
    union
    select loan_id from loans
    union
    select loan_id from {{ changes_of('int_loan_schedules') }}
    where _run_id > {{ since.run_id }}
    union
    select loan_id from versions
    where {{ business_day('touched_from') }} <= {{ last_month_end }}
    union
    select loans.loan_id
    from customers
    inner join {{ ref('dim_loan') }} as loans on customers.customer_id = loans.customer_id
    where {{ business_day('customers.touched_from') }} <= {{ last_month_end }}
)

select
    loan_id,
    date '0001-01-01' as first_day
from restated
union all
select
    loans.loan_id,
    {{ first_new_day }} as first_day
from {{ ref('fact_loans') }} as loans
inner join {{ ref('int_loan_schedules') }} as schedules on loans.loan_id = schedules.loan_id
where
    {{ first_new_day }} <= {{ last_month_end }}
    and (
        loans.is_in_portfolio
        or {{ business_day('loans.last_payment_date') }} >= {{ first_new_day }}
        or schedules.written_off_on >= {{ first_new_day }}
        or schedules.on_book_from >= {{ first_new_day }}
    )
    and loans.loan_id not in (select restated.loan_id from restated)
{% endset %}
{% set affected = materialize_keys(since, 'affected', keys) %}
{% endif %}

-- Everything in whole cents. first_month: the first month whose row is wanted; grid_from: the month before it, whose
-- end is the state that the first row begins with; last_day: a closed loan has no month after its last payment.
with loans as (
    select
        loans.loan_id,
        loans.product_sk,
        loans.branch_sk,
        loans.customer_id,
        loans.loan_officer,
        schedules.on_book_from,
        schedules.written_off_on,
        schedules.schedule_source,
        (100 * loans.principal_amount)::bigint as amount,
        (100 * loans.principal_owed)::bigint as owed_today,
        (100 * loans.principal_paid)::bigint as principal_in_all,
        (100 * (loans.principal_paid + loans.interest_paid))::bigint as money_in_all,
        greatest(
            {% if since %}affected.first_day,{% endif %}
            date_trunc('month', schedules.on_book_from::timestamp)::date
        ) as first_month,
        greatest(
            {% if since %}(affected.first_day - interval '1 month')::date,{% endif %}
            date_trunc('month', schedules.on_book_from::timestamp)::date
        ) as grid_from,
        case
            when loans.is_in_portfolio or schedules.written_off_on > {{ last_month_end }} then {{ last_month_end }}
            else least(
                greatest(
                    schedules.on_book_from, schedules.written_off_on, {{ business_day('loans.last_payment_date') }}
                ), {{ last_month_end }}
            )
        end as last_day
    {% if since %}
    from {{ affected }} as affected
    inner join {{ ref('fact_loans') }} as loans on affected.loan_id = loans.loan_id
    {% else %}
    from {{ ref('fact_loans') }} as loans
    {% endif %}
    inner join {{ ref('int_loan_schedules') }} as schedules on loans.loan_id = schedules.loan_id
    where loans.is_disbursed and schedules.on_book_from <= {{ last_month_end }}
),

payments as (
    select
        payments.loan_id,
        {{ business_day('payments.payment_date') }} as day,
        (100 * (payments.principal_amount + payments.interest_amount))::bigint as money,
        (100 * payments.principal_amount)::bigint as principal
    from {{ ref('fact_payments') }} as payments
    {% if since %}
    inner join loans on payments.loan_id = loans.loan_id
    where {{ business_day('payments.payment_date') }} >= loans.grid_from
    {% endif %}
),

-- What the loan had paid before its first month of the grid.
openings as (
    select
        loans.loan_id,
        loans.money_in_all - coalesce(sum(payments.money), 0)::bigint as money,
        loans.principal_in_all - coalesce(sum(payments.principal), 0)::bigint as principal
    from loans
    left join payments on loans.loan_id = payments.loan_id and loans.grid_from <= payments.day
    group by loans.loan_id, loans.money_in_all, loans.principal_in_all
),

-- Payments of a day come before what falls due on it.
events as (
    select
        payments.loan_id,
        payments.day,
        0 as kind,
        payments.money,
        payments.principal,
        case
            when payments.day >= loans.on_book_from and coalesce(payments.day <= loans.written_off_on, true)
                then payments.money
            else 0
        end as counted,
        case when payments.day < loans.on_book_from then payments.money else 0 end as early,
        case
            when payments.day >= loans.on_book_from and payments.day > loans.written_off_on then payments.money
            else 0
        end as recovered,
        case when payments.day > loans.written_off_on then payments.principal else 0 end as principal_recovered,
        payments.day >= loans.on_book_from and (payments.money <> 0 or payments.principal <> 0) as has_come,
        null::bigint as due_before,
        null::bigint as due_with
    from payments
    inner join loans on payments.loan_id = loans.loan_id
    where payments.day >= loans.grid_from and payments.day <= {{ last_month_end }}
    union all
    select
        loans.loan_id,
        installments.due_date as day,
        1 as kind,
        0 as money,
        0 as principal,
        0 as counted,
        0 as early,
        0 as recovered,
        0 as principal_recovered,
        false as has_come,
        coalesce(schedules.cum_due[installments.position - 1], 0) as due_before,
        installments.cum_due as due_with
    from loans
    inner join {{ ref('int_loan_schedules') }} as schedules on loans.loan_id = schedules.loan_id
    cross join
        lateral unnest(schedules.due_dates, schedules.cum_due)
        with ordinality as installments (due_date, cum_due, position)
    where
        installments.due_date between loans.first_month and loans.last_day + 31
        and installments.due_date <= {{ last_month_end }}
        and coalesce(installments.due_date < loans.written_off_on, true)
),

running as (
    select
        events.*,
        openings.money + sum(events.money) over (
            partition by events.loan_id order by events.day, events.kind rows unbounded preceding
        ) as money_so_far
    from events
    inner join openings on events.loan_id = openings.loan_id
),

by_month as (
    select
        loan_id,
        date_trunc('month', day::timestamp)::date as month,
        sum(money)::bigint as money,
        sum(principal)::bigint as principal,
        sum(counted)::bigint as counted,
        sum(early)::bigint as early,
        sum(recovered)::bigint as recovered,
        sum(principal_recovered)::bigint as principal_recovered,
        sum(least(greatest(money_so_far, due_before), due_with) - due_before)::bigint as on_time,
        bool_or(has_come) as has_come
    from running
    group by loan_id, date_trunc('month', day::timestamp)
),

grid as (
    select
        loans.loan_id,
        months.month::date as month,
        (months.month + interval '1 month')::date - 1 as month_end
    from loans
    cross join
        lateral generate_series(
            loans.grid_from::timestamp, loans.last_day::timestamp, interval '1 month'
        ) as months (month)
),

summed as (
    select
        grid.loan_id,
        grid.month,
        grid.month_end,
        coalesce(by_month.counted, 0) as counted,
        coalesce(by_month.early, 0) as early,
        coalesce(by_month.recovered, 0) as recovered,
        coalesce(by_month.principal_recovered, 0) as principal_recovered,
        coalesce(by_month.on_time, 0) as on_time,
        coalesce(by_month.has_come, false) as has_come,
        coalesce(by_month.money, 0) as money_of_month,
        coalesce(sum(by_month.money) over so_far, 0)::bigint as money_since,
        coalesce(sum(by_month.principal) over so_far, 0)::bigint as principal_since
    from grid
    left join by_month on grid.loan_id = by_month.loan_id and grid.month = by_month.month
    window so_far as (partition by grid.loan_id order by grid.month rows unbounded preceding)
),

-- Once out of its compressed form, not at each look at it.
schedules as (
    select
        loan_id,
        installment_count,
        due_dates || array[]::date[] as due_dates,
        cum_due || array[]::bigint[] as cum_due,
        cum_principal || array[]::bigint[] as cum_principal,
        principal_steps
    from {{ ref('int_loan_schedules') }}
    {% if since %}
    where loan_id in (select loan_id from {{ affected }})
    {% endif %}
),

-- Principal owed at the end: what is owed today, and what was paid back since.
balances as (
    select
        summed.*,
        loans.first_month,
        loans.on_book_from,
        loans.written_off_on,
        loans.amount,
        openings.money + summed.money_since as money,
        loans.owed_today + loans.principal_in_all - openings.principal - summed.principal_since as owed,
        summed.month = date_trunc('month', loans.on_book_from::timestamp)::date as is_first
    from summed
    inner join loans on summed.loan_id = loans.loan_id
    inner join openings on summed.loan_id = openings.loan_id
),

positions as (
    select
        balances.*,
        schedules.installment_count,
        schedules.due_dates,
        schedules.cum_due,
        balances.owed > 0 and coalesce(balances.month_end < balances.written_off_on, true) as is_open,
        {{ installments_paid('balances.money', 'balances.amount - balances.owed', 'balances.owed', 'schedules') }}
            as installments_paid,
        {{ due_by('schedules', 'balances.month - 1') }} as due_earlier,
        {{ due_by('schedules', 'least(balances.month_end, balances.written_off_on - 1)') }} as due_by_end
    from balances
    inner join schedules on balances.loan_id = schedules.loan_id
),

late as (
    select
        positions.*,
        case
            when positions.is_open
                then greatest(
                    coalesce(positions.month_end - positions.due_dates[positions.installments_paid + 1], 0), 0
                )
            else 0
        end as days_past_due,
        case
            when positions.is_open
                then {{ overdue_by(
                    'positions', 'positions.month_end', 'positions.money', 'positions.owed', 'positions.installments_paid'
                ) }}
            else 0
        end as overdue
    from positions
),

states as (
    select
        loan_id,
        month,
        month_end,
        first_month,
        is_first,
        has_come,
        is_open,
        days_past_due,
        overdue,
        owed,
        money,
        written_off_on,
        recovered,
        principal_recovered,
        on_time,
        counted,
        due_earlier,
        greatest(due_by_end, due_earlier) as due_by_end,
        -- where the month's money begins to pour; without what was paid before the disbursement
        money - money_of_month + early as poured_from,
        case
            when written_off_on <= month_end then 'written_off'
            when owed <= 0 then 'repaid'
            else {{ arrears_band('days_past_due') }}
        end as state
    from late
),

followed as (
    select
        *,
        lag(state) over by_month as state_before,
        coalesce(lag(is_open) over by_month, false) as was_open,
        max(days_past_due) over (
            partition by loan_id order by month rows between unbounded preceding and 1 preceding
        ) as worst_before
    from states
    window by_month as (partition by loan_id order by month)
),

{# How late a loan was before the months that are computed here: its row before them says it. #}
before as (
    {% if since %}
    select distinct on (kept.loan_id)
        kept.loan_id,
        kept.worst_days_past_due
    from loans
    inner join {{ this }} as kept on loans.loan_id = kept.loan_id and loans.first_month > kept.month_end
    where loans.first_month > loans.on_book_from
    order by kept.loan_id asc, kept.month_end desc
    {% else %}
    select
        null::bigint as loan_id,
        null::integer as worst_days_past_due
    {% endif %}
),

demanded as (
    select
        followed.*,
        case
            when followed.is_first or followed.was_open then followed.due_by_end
            else followed.due_earlier
        end as due_until,
        greatest(followed.worst_before, before.worst_days_past_due) as worst_in_all_before,
        {{ start_of_day('followed.month_end + 1') }} as ended_at
    from followed
    left join before on followed.loan_id = before.loan_id
    where followed.month >= followed.first_month and (followed.is_first or followed.was_open or followed.has_come)
),

final as (
    select
        demanded.loan_id,
        demanded.month_end,
        coalesce(versions.loan_sk, {{ unknown_sk() }}) as loan_sk,
        coalesce(versions.branch_sk, loans.branch_sk) as branch_sk,
        coalesce(versions.product_sk, loans.product_sk) as product_sk,
        coalesce(customers.customer_segment, 'unknown') as customer_segment,
        case
            when versions.loan_sk is null then loans.loan_officer
            else {{ officer_of('versions') }}
        end as loan_officer,
        loans.schedule_source,
        date_trunc('month', loans.on_book_from::timestamp)::date as cohort_month,
        demanded.state,
        case when not demanded.is_first then demanded.state_before end as state_before,
        demanded.days_past_due,
        greatest(demanded.days_past_due, demanded.worst_in_all_before, 0) as worst_days_past_due,
        0.01 * case when demanded.is_open then demanded.owed else 0 end as outstanding_principal,
        0.01 * demanded.overdue as overdue_amount,
        0.01 * demanded.money as paid_to_date,
        0.01 * (demanded.due_until - demanded.due_earlier) as due_amount,
        0.01 * case when demanded.due_until > demanded.due_earlier then demanded.on_time else 0 end as paid_on_time,
        0.01 * (
            least(greatest(demanded.poured_from + demanded.counted, demanded.due_earlier), demanded.due_until)
            - least(greatest(demanded.poured_from, demanded.due_earlier), demanded.due_until)
        ) as paid_of_due,
        -- Where more was taken back than there was, nothing of a due was: the rest is less ahead.
        0.01 * (
            greatest(least(demanded.poured_from + demanded.counted, demanded.due_earlier), 0)
            - greatest(least(demanded.poured_from, demanded.due_earlier), 0)
        ) as paid_of_arrears,
        0.01 * (
            greatest(demanded.poured_from + demanded.counted, demanded.due_until)
            - greatest(demanded.poured_from, demanded.due_until)
            + least(demanded.poured_from + demanded.counted, 0) - least(demanded.poured_from, 0)
        ) as paid_ahead,
        0.01 * case
            when demanded.written_off_on between demanded.month and demanded.month_end
                then greatest(demanded.owed + demanded.principal_recovered, 0)
            else 0
        end as written_off_amount,
        0.01 * demanded.recovered as recovered_amount,
        0.01 * case when demanded.is_first then loans.amount else 0 end as disbursed_amount,
        0.01 * case
            when demanded.days_past_due > 30 and coalesce(demanded.worst_in_all_before, 0) <= 30 then loans.amount
            else 0
        end as first_over_30_amount,
        0.01 * case
            when demanded.days_past_due > 90 and coalesce(demanded.worst_in_all_before, 0) <= 90 then loans.amount
            else 0
        end as first_over_90_amount
    from demanded
    inner join loans on demanded.loan_id = loans.loan_id
    left join {{ ref('dim_loan') }} as versions
        on
            demanded.loan_id = versions.loan_id
            and demanded.ended_at > versions.valid_from
            and demanded.ended_at <= versions.valid_to
    left join {{ ref('dim_customer') }} as customers
        on
            coalesce(versions.customer_id, loans.customer_id) = customers.customer_id
            and demanded.ended_at > customers.valid_from
            and demanded.ended_at <= customers.valid_to
)

select
    {% if since %}
    false as is_removed,
    {% endif %}
    loan_id,
    month_end,
    loan_sk,
    branch_sk,
    product_sk,
    customer_segment,
    loan_officer,
    schedule_source,
    cohort_month,
    state,
    state_before,
    days_past_due,
    worst_days_past_due,
    outstanding_principal,
    overdue_amount,
    paid_to_date,
    due_amount,
    paid_on_time,
    paid_of_due,
    paid_of_arrears,
    paid_ahead,
    written_off_amount,
    recovered_amount,
    disbursed_amount,
    first_over_30_amount,
    first_over_90_amount
from final
{% if since %}
union all
-- rows that a restated loan does not have any more
select
    true as is_removed,
    present.loan_id,
    present.month_end,
    present.loan_sk,
    present.branch_sk,
    present.product_sk,
    present.customer_segment,
    present.loan_officer,
    present.schedule_source,
    present.cohort_month,
    present.state,
    present.state_before,
    present.days_past_due,
    present.worst_days_past_due,
    present.outstanding_principal,
    present.overdue_amount,
    present.paid_to_date,
    present.due_amount,
    present.paid_on_time,
    present.paid_of_due,
    present.paid_of_arrears,
    present.paid_ahead,
    present.written_off_amount,
    present.recovered_amount,
    present.disbursed_amount,
    present.first_over_30_amount,
    present.first_over_90_amount
from {{ affected }} as affected
inner join {{ this }} as present on affected.loan_id = present.loan_id and affected.first_day <= present.month_end
left join final on present.loan_id = final.loan_id and present.month_end = final.month_end
where final.loan_id is null
{% endif %}
