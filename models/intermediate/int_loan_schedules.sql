{{
    config(
        materialized='upsert',
        schema='warehouse',
        grants={'select': ['warehouse_reader', 'warehouse_user']},
        unique_key=['loan_id'],
        log_changes=true
    )
}}

-- depends_on: {{ ref('dim_loan') }}
{% set since = increment() %}
{# By its names: with --empty a ref() is a query of no rows, which cannot be called. #}
{% set annuity = ref('annuity_schedule') %}
{# Whether a schedule was replaced is seen by comparison with the one kept, and stays so: history, as in a snapshot. #}
{% set has_history = execute and is_recorded_run()
    and (model.get('computes_in_full') or relation_exists(this.render())) %}
{# An earlier version kept no digest. #}
{% set kept_digest = 'kept.lender_digest' if has_history and (
    model.get('computes_in_full')
    or 'lender_digest' in adapter.get_columns_in_relation(this) | map(attribute='name')
) else 'null::bigint' %}

{# A balance is not among the terms: a payment changes no version of its loan, and so none of these rows. #}
{% if since %}
{% set keys %}
select loan_id from {{ changes_of('dim_loan') }}
where _run_id > {{ since.run_id }} and loan_id is not null
union
select loan_id from {{ changes_of('int_loan_installments') }}
where _run_id > {{ since.run_id }}
{% endset %}
{% set affected = materialize_keys(since, 'affected', keys) %}
{% endif %}

with loans as (
    select
        stg_loans.*,
        {{ business_day('stg_loans.disbursed_at') }} as disbursed_on
    {% if since %}
    from {{ affected }} as affected
    inner join {{ ref('stg_loans') }} as stg_loans on affected.loan_id = stg_loans.loan_id
    {% else %}
    from {{ ref('stg_loans') }} as stg_loans
    where not stg_loans.is_deleted
    {% endif %}
),

installments as (
    select
        installments.loan_id,
        installments.installment_no,
        installments.due_date,
        installments.principal_due,
        installments.principal_due + installments.interest_due as amount_due,
        100 * sum(installments.principal_due) over earlier as cum_principal,
        100 * sum(installments.principal_due + installments.interest_due) over earlier as cum_due,
        lag(installments.due_date) over (
            partition by installments.loan_id order by installments.installment_no
        ) as due_before,
        row_number() over earlier as position
    from {{ ref('int_loan_installments') }} as installments
    {% if since %}
    where installments.loan_id in (select loan_id from {{ affected }})
    {% endif %}
    window earlier as (
        partition by installments.loan_id order by installments.installment_no rows unbounded preceding
    )
),

-- Which principal settles an instalment: its own, where it has some; one of interest alone is settled with the next
-- that has principal, one of nothing with the one before it.
settled_later as (
    select
        *,
        coalesce(
            min(case when principal_due > 0 then cum_principal end) over (
                partition by loan_id order by installment_no rows between current row and unbounded following
            ), 9223372036854775807
        ) as next_step
    from installments
),

settled as (
    select
        *,
        coalesce(
            max(case when amount_due > 0 then next_step end) over (
                partition by loan_id order by installment_no rows unbounded preceding
            ), 0
        ) as principal_step
    from settled_later
),

-- A schedule in which a later number is due before an earlier one is rejected as inconsistent. Its digest still tells
-- whether the lender replaced it.
lender_rows as (
    select
        loan_id,
        count(*)::integer as installment_count,
        array_agg(due_date order by installment_no) as due_dates,
        array_agg(cum_principal::bigint order by installment_no) as cum_principal,
        array_agg(cum_due::bigint order by installment_no) as cum_due,
        case
            when bool_or(principal_due = 0) then array_agg(principal_step::bigint order by installment_no)
        end as principal_steps,
        case
            when bool_or(installment_no <> position) then array_agg(installment_no order by installment_no)
        end as installment_numbers,
        hash_array_extended(
            array_agg(due_date order by installment_no),
            hash_array_extended(
                array_agg(cum_principal order by installment_no),
                hash_array_extended(array_agg(cum_due order by installment_no), 0)
            )
        ) as lender_digest,
        bool_and(due_date >= due_before) is not false as is_believable
    from settled
    group by loan_id
    having max(cum_due) < 9000000000000000000
),

lender_schedules as (
    select * from lender_rows
    where is_believable
),

-- The last instalment of a monthly annuity is due at maturity. Other terms are no annuity, or not known.
derivable as (
    select
        loans.loan_id,
        loans.principal_amount,
        loans.interest_rate,
        loans.tenure_months,
        loans.disbursed_on
    from loans
    where
        loans.is_disbursed
        and not exists (
            select 1 from {{ ref('int_loan_installments') }} as installments
            where loans.loan_id = installments.loan_id
        )
        and case
            when
                loans.tenure_months <= 1200
                and loans.disbursed_on >= date '1900-01-01' - interval '1 month'
                and loans.disbursed_on <= date '2199-12-31'
                and loans.maturity_date <= date '2199-12-31'
                then
                    loans.maturity_date = (loans.disbursed_on + loans.tenure_months * interval '1 month')::date
                    and (loans.disbursed_on + interval '1 month')::date >= date '1900-01-01'
            else false
        end
),

derived_schedules as (
    select
        derivable.loan_id,
        derivable.tenure_months as installment_count,
        walk.due_dates,
        walk.cum_principal,
        walk.cum_due,
        walk.principal_steps
    from derivable
    cross join lateral {{ annuity.schema }}.{{ annuity.identifier }}(
        derivable.principal_amount, derivable.interest_rate, derivable.tenure_months, derivable.disbursed_on
    ) as walk
),

versions as (
    select
        loan_id,
        is_deleted,
        dbt_valid_from,
        not is_deleted and loan_status <> 'pending' as is_disbursed,
        not is_deleted and loan_status = 'written_off' as is_written_off,
        jsonb_build_array(principal_amount, interest_rate, tenure_months, disbursed_at, maturity_date) as terms
    from {{ ref('loans_snapshot') }}
    {% if since %}
    where loan_id in (select loan_id from {{ affected }})
    {% endif %}
),

compared as (
    select
        *,
        lag(is_disbursed) over by_version as was_disbursed,
        lag(is_written_off, 1, false) over by_version as was_written_off,
        lag(terms) over by_version as terms_before
    from versions
    window by_version as (partition by loan_id order by dbt_valid_from)
),

history as (
    select
        loan_id,
        bool_or(not is_deleted and was_disbursed and terms <> terms_before) as has_other_terms,
        -- the last time: what was taken back, and written off again, left the portfolio on the later day
        max(dbt_valid_from) filter (where is_written_off and not was_written_off) as written_off_at
    from compared
    group by loan_id
),

schedules as (
    select
        loans.loan_id,
        case
            when lender_schedules.loan_id is not null then 'lender'
            when derived_schedules.loan_id is not null then 'derived'
            else 'none'
        end as schedule_source,
        coalesce(lender_schedules.installment_count, derived_schedules.installment_count, 0) as installment_count,
        coalesce(lender_schedules.due_dates, derived_schedules.due_dates, array[]::date[]) as due_dates,
        coalesce(lender_schedules.cum_principal, derived_schedules.cum_principal, array[]::bigint[]) as cum_principal,
        coalesce(lender_schedules.cum_due, derived_schedules.cum_due, array[]::bigint[]) as cum_due,
        coalesce(lender_schedules.principal_steps, derived_schedules.principal_steps) as principal_steps,
        lender_schedules.installment_numbers,
        case
            when loans.is_disbursed then coalesce(loans.disbursed_on, {{ business_day('loans.created_at') }})
        end as on_book_from,
        case
            when loans.loan_status = 'written_off'
                then greatest(
                    coalesce(loans.written_off_on, {{ business_day('history.written_off_at') }}),
                    loans.disbursed_on
                )
        end as written_off_on,
        loans.restructured_on is not null or coalesce(history.has_other_terms, false) as has_other_terms,
        lender_rows.lender_digest,
        loans.is_deleted
    from loans
    left join lender_rows on loans.loan_id = lender_rows.loan_id
    left join lender_schedules on loans.loan_id = lender_schedules.loan_id
    left join derived_schedules on loans.loan_id = derived_schedules.loan_id
    left join history on loans.loan_id = history.loan_id
),

nothing_kept as (
    select
        *,
        false as is_rescheduled
    from schedules
    where false
),

-- What the lender recorded last, also while its rows are gone.
compared_with_kept as (
    select
        schedules.*,
        kept.is_rescheduled as was_rescheduled,
        case when kept.on_book_from is not null then {{ kept_digest }} end as digest_before
    from schedules
    left join {{ this if has_history else 'nothing_kept' }} as kept on schedules.loan_id = kept.loan_id
),

final as (
    select
        *,
        coalesce(lender_digest, digest_before) as last_digest,
        coalesce(was_rescheduled or lender_digest <> digest_before, false) as is_rescheduled
    from compared_with_kept
)

select
    {% if since %}
    is_deleted as is_removed,
    {% endif %}
    loan_id,
    schedule_source,
    installment_count,
    due_dates,
    cum_principal,
    cum_due,
    principal_steps,
    installment_numbers,
    on_book_from,
    written_off_on,
    has_other_terms,
    is_rescheduled,
    last_digest as lender_digest,
    hash_array_extended(due_dates, hash_array_extended(cum_due, 0)) as schedule_hash
from final
