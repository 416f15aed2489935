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
    its customer that was valid at a month's end. When a month has ended, it is appended for the loans that were in the
    portfolio or had receipts.
#}
{% if since %}
{% set from_the_start = "date '0001-01-01'" %}
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
    {{ from_the_start }} as first_day
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

{#
    Everything in whole cents. The payments of a loan are in arrays, in the order of their days, with what was paid up
    to and with each: what was paid up to any day is then found by its position, as what is due is in a schedule.

    A CTE that ends in `offset 0` is computed as it stands: without that, PostgreSQL puts the expressions of one into each
    place of the next that uses them, and computes an instalment's position for each band of days that it is compared to.
#}
with payments as (
    select
        payments.loan_id,
        {{ business_day('payments.payment_date') }} as day,
        (100 * (payments.principal_amount + payments.interest_amount))::bigint as money,
        (100 * payments.principal_amount)::bigint as principal
    from {{ ref('fact_payments') }} as payments
    {% if since %}
    inner join {{ affected }} as affected on payments.loan_id = affected.loan_id
    -- a day more, since a day may begin twice; earlier payments are only added to what was paid before
    where
        payments.payment_date
        >= (affected.first_day - interval '1 month 1 day') at time zone {{ sql_literal(lending_settings().timezone) }}
    {% endif %}
),

running as (
    select
        loan_id,
        day,
        sum(money) over so_far as money,
        sum(principal) over so_far as principal,
        count(*) filter (where money <> 0 or principal <> 0) over so_far as number
    from payments
    window so_far as (partition by loan_id order by day)
    order by loan_id, day
),

-- The arrays take the rows in the order of `running`. To sort for each of the four took a tenth of the time.
paid as (
    select
        loan_id,
        array_agg(day) as paid_on,
        array_agg({{ cents_in_range('money') }}) as money_so_far,
        array_agg({{ cents_in_range('principal') }}) as principal_so_far,
        array_agg(number) as number_so_far
    from running
    group by loan_id
),

-- first_month: the first month whose row is wanted; grid_from: the month before it, whose end is the state that the
-- first row begins with; last_day: a closed loan has no month after its last payment.
loans as (
    select
        loans.loan_id,
        loans.product_sk,
        loans.branch_sk,
        loans.customer_id,
        loans.loan_officer,
        schedules.on_book_from,
        schedules.written_off_on,
        schedules.schedule_source,
        schedules.installment_count,
        -- once out of their compressed form, not at each look at them
        schedules.due_dates || array[]::date[] as due_dates,
        schedules.cum_due || array[]::bigint[] as cum_due,
        schedules.cum_principal || array[]::bigint[] as cum_principal,
        schedules.principal_steps,
        {{ whole_cents('loans.principal_amount') }} as amount,
        {{ whole_cents('loans.principal_owed') }} as owed_today,
        {{ whole_cents('loans.principal_paid + loans.interest_paid') }} as money_in_all,
        coalesce(paid.paid_on, array[]::date[]) as paid_on,
        paid.money_so_far,
        paid.principal_so_far,
        paid.number_so_far,
        coalesce(cardinality(paid.paid_on), 0) as payment_count,
        date_trunc('month', schedules.on_book_from::timestamp)::date as cohort_month,
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
    left join paid on loans.loan_id = paid.loan_id
    where loans.is_disbursed and schedules.on_book_from <= {{ last_month_end }}
    offset 0  -- noqa: AM09
),

-- money_before, owed_before: before the payments that are read here, counted back from today's. Payments behind
-- early_count are of the loan's time on the book, those behind counted_count recoveries of a written-off one.
books as (
    select
        loans.*,
        loans.money_in_all - coalesce(loans.money_so_far[loans.payment_count], 0) as money_before,
        loans.owed_today + coalesce(loans.principal_so_far[loans.payment_count], 0) as owed_before,
        width_bucket(loans.on_book_from - 1, loans.paid_on) as early_count,
        coalesce(width_bucket(loans.written_off_on, loans.paid_on), loans.payment_count) as counted_count,
        {{ 'before.worst_days_past_due' if since else 'null::integer' }} as worst_kept,
        -- as arrays, of which the planner expects a handful of rows instead of a thousand
        array(
            select series.month::date
            from
                generate_series(loans.grid_from::timestamp, loans.last_day::timestamp, interval '1 month')
                    as series (month)
        ) as months,
        array(
            select (series.month + interval '1 month')::date - 1
            from
                generate_series(loans.grid_from::timestamp, loans.last_day::timestamp, interval '1 month')
                    as series (month)
        ) as month_ends
    from loans
    {% if since %}
    {# How late a loan was before the months that are computed here: its row before them says it. #}
    left join
        lateral (
            select kept.worst_days_past_due
            from {{ this }} as kept
            where
                kept.loan_id = loans.loan_id
                and kept.month_end < loans.first_month
                and loans.first_month > loans.on_book_from
            order by kept.month_end desc
            limit 1
        ) as before
        on true
    {% endif %}
    offset 0  -- noqa: AM09
),

-- What stood at its start and at its end, as positions in the arrays.
grid as (
    select
        books.*,
        months.month,
        months.month_end,
        width_bucket(months.month - 1, books.paid_on) as paid_before,
        width_bucket(months.month_end, books.paid_on) as paid_by_end,
        width_bucket(months.month - 1, books.due_dates) as due_before,
        greatest(
            width_bucket(least(months.month_end, books.written_off_on - 1), books.due_dates),
            width_bucket(months.month - 1, books.due_dates)
        ) as due_by_end
    from books
    cross join lateral unnest(books.months, books.month_ends) as months (month, month_end)
    offset 0  -- noqa: AM09
),

summed as (
    select
        grid.*,
        grid.month = grid.cohort_month as is_first,
        grid.money_before + coalesce(grid.money_so_far[grid.paid_before], 0) as money_at_start,
        grid.money_before + coalesce(grid.money_so_far[grid.paid_by_end], 0) as money,
        grid.owed_before - coalesce(grid.principal_so_far[grid.paid_by_end], 0) as owed,
        greatest(grid.paid_before, grid.early_count) as counted_from,
        greatest(grid.paid_before, grid.early_count, grid.counted_count) as recovered_from,
        coalesce(grid.cum_due[grid.due_before], 0) as due_earlier,
        greatest(grid.cum_due[grid.due_by_end], grid.cum_due[grid.due_before], 0) as due_until_end
    from grid
    offset 0  -- noqa: AM09
),

positions as (
    select
        summed.*,
        summed.owed > 0 and coalesce(summed.month_end < summed.written_off_on, true) as is_open,
        case
            when summed.owed > 0
                then {{ installments_paid('summed.money', 'summed.amount - summed.owed', 'summed.owed', 'summed') }}
        end as installments_paid
    from summed
    offset 0  -- noqa: AM09
),

late as (
    select
        positions.loan_id,
        positions.product_sk,
        positions.branch_sk,
        positions.customer_id,
        positions.loan_officer,
        positions.schedule_source,
        positions.cohort_month,
        positions.on_book_from,
        positions.amount,
        positions.first_month,
        positions.worst_kept,
        positions.month,
        positions.month_end,
        positions.is_first,
        positions.is_open,
        positions.owed,
        positions.money,
        positions.due_earlier,
        positions.due_until_end,
        positions.written_off_on <= positions.month_end as is_written_off,
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
        end as overdue,
        case
            when positions.due_by_end <= positions.due_before then 0
            when positions.due_by_end = positions.due_before + 1
                then {{ paid_by_due_day('positions', 'positions.due_by_end') }}
            else (
                select sum({{ paid_by_due_day('positions', 'due.position') }})::bigint
                from generate_series(positions.due_before + 1, positions.due_by_end) as due (position)
            )
        end as on_time,
        -- where the month's money begins to pour; without what was paid before the disbursement
        positions.money_at_start
        + {{ paid_between(
            'positions.money_so_far', 'least(positions.paid_before, positions.early_count)',
            'least(positions.paid_by_end, positions.early_count)'
        ) }} as poured_from,
        {{ paid_between(
            'positions.money_so_far', 'positions.counted_from',
            'least(positions.paid_by_end, positions.counted_count)'
        ) }} as counted,
        {{ paid_between('positions.money_so_far', 'positions.recovered_from', 'positions.paid_by_end') }} as recovered,
        {{ paid_between('positions.number_so_far', 'positions.counted_from', 'positions.paid_by_end') }} > 0
            as has_come,
        case
            when positions.written_off_on between positions.month and positions.month_end
                then greatest(
                    positions.owed_before - coalesce(positions.principal_so_far[positions.counted_count], 0), 0
                )
            else 0
        end as written_off
    from positions
    offset 0  -- noqa: AM09
),

states as (
    select
        *,
        case
            when is_written_off then 'written_off'
            when owed <= 0 then 'repaid'
            else {{ arrears_band('days_past_due') }}
        end as state
    from late
    offset 0  -- noqa: AM09
),

followed as (
    select
        *,
        lag(state) over earlier as state_before,
        coalesce(lag(is_open) over earlier, false) as was_open,
        max(days_past_due) over earlier as worst_before
    from states
    window earlier as (partition by loan_id order by month rows between unbounded preceding and 1 preceding)
),

-- In the last place: when it ended, in the lender's time zone.
demanded as (
    select
        followed.*,
        case
            when followed.is_first or followed.was_open then followed.due_until_end
            else followed.due_earlier
        end as due_until,
        greatest(followed.worst_before, followed.worst_kept) as worst_in_all_before,
        {{ start_of_day('followed.month_end + 1') }} as ended_at
    from followed
    where followed.month >= followed.first_month and (followed.is_first or followed.was_open or followed.has_come)
    offset 0  -- noqa: AM09
),

-- What the month's money paid: arrears first, then what fell due, then ahead.
poured as (
    select
        demanded.*,
        case when demanded.is_open then demanded.owed else 0 end as outstanding,
        demanded.due_until - demanded.due_earlier as due,
        case when demanded.due_until > demanded.due_earlier then demanded.on_time else 0 end as due_on_time,
        least(greatest(demanded.poured_from + demanded.counted, demanded.due_earlier), demanded.due_until)
        - least(greatest(demanded.poured_from, demanded.due_earlier), demanded.due_until) as of_due,
        -- Where more was taken back than there was, nothing of a due was: the rest is less ahead.
        greatest(least(demanded.poured_from + demanded.counted, demanded.due_earlier), 0)
        - greatest(least(demanded.poured_from, demanded.due_earlier), 0) as of_arrears,
        greatest(demanded.poured_from + demanded.counted, demanded.due_until)
        - greatest(demanded.poured_from, demanded.due_until)
        + least(demanded.poured_from + demanded.counted, 0) - least(demanded.poured_from, 0) as ahead,
        case when demanded.is_first then demanded.amount else 0 end as disbursed,
        case
            when demanded.days_past_due > 30 and coalesce(demanded.worst_in_all_before, 0) <= 30 then demanded.amount
            else 0
        end as first_over_30,
        case
            when demanded.days_past_due > 90 and coalesce(demanded.worst_in_all_before, 0) <= 90 then demanded.amount
            else 0
        end as first_over_90
    from demanded
),

final as (
    select
        poured.loan_id,
        poured.month_end,
        coalesce(versions.loan_sk, {{ unknown_sk() }}) as loan_sk,
        coalesce(versions.branch_sk, poured.branch_sk) as branch_sk,
        coalesce(versions.product_sk, poured.product_sk) as product_sk,
        coalesce(customers.customer_segment, 'unknown') as customer_segment,
        case
            when versions.loan_sk is null then poured.loan_officer
            else {{ officer_of('versions') }}
        end as loan_officer,
        poured.schedule_source,
        poured.cohort_month,
        poured.state,
        case when not poured.is_first then poured.state_before end as state_before,
        poured.days_past_due,
        greatest(poured.days_past_due, poured.worst_in_all_before, 0) as worst_days_past_due,
        {{ amount_of('poured.outstanding') }} as outstanding_principal,
        {{ amount_of('poured.overdue') }} as overdue_amount,
        {{ amount_of('poured.money') }} as paid_to_date,
        {{ amount_of('poured.due') }} as due_amount,
        {{ amount_of('poured.due_on_time') }} as paid_on_time,
        {{ amount_of('poured.of_due') }} as paid_of_due,
        {{ amount_of('poured.of_arrears') }} as paid_of_arrears,
        {{ amount_of('poured.ahead') }} as paid_ahead,
        {{ amount_of('poured.written_off') }} as written_off_amount,
        {{ amount_of('poured.recovered') }} as recovered_amount,
        {{ amount_of('poured.disbursed') }} as disbursed_amount,
        {{ amount_of('poured.first_over_30') }} as first_over_30_amount,
        {{ amount_of('poured.first_over_90') }} as first_over_90_amount
    from poured
    left join {{ ref('dim_loan') }} as versions
        on
            poured.loan_id = versions.loan_id
            and poured.ended_at > versions.valid_from
            and poured.ended_at <= versions.valid_to
    left join {{ ref('dim_customer') }} as customers
        on
            coalesce(versions.customer_id, poured.customer_id) = customers.customer_id
            and poured.ended_at > customers.valid_from
            and poured.ended_at <= customers.valid_to
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
-- rows that a restated loan does not have any more; a month that is appended has none yet
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
inner join {{ this }} as present on affected.loan_id = present.loan_id
left join final on present.loan_id = final.loan_id and present.month_end = final.month_end
where affected.first_day = {{ from_the_start }} and final.loan_id is null
{% endif %}
