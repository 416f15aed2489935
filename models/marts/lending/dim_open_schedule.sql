{{
    config(
        unique_key=['loan_id'],
        log_changes=true
    )
}}

{% set since = increment() %}

{# A payment changes no row: a loan comes when it is disbursed, and goes when it is repaid or written off. #}
{% if since %}
{% set keys %}
select loan_id from {{ changes_of('fact_loans') }}
where _run_id > {{ since.run_id }}
group by loan_id
having count(distinct is_in_portfolio) > 1 or sum(_sign) <> 0
union
select loan_id from {{ changes_of('int_loan_schedules') }}
where _run_id > {{ since.run_id }}
{% endset %}
{% set affected = materialize_keys(since, 'affected', keys) %}
{% endif %}

with final as (
    select
        schedules.loan_id,
        schedules.installment_count,
        schedules.due_dates,
        schedules.cum_due
    from {{ ref('fact_loans') }} as loans
    inner join {{ ref('int_loan_schedules') }} as schedules on loans.loan_id = schedules.loan_id
    where
        loans.is_in_portfolio
        and schedules.installment_count > 0
        {% if since %}
        and loans.loan_id in (select loan_id from {{ affected }})
        {% endif %}
)

select
    {% if since %}
    false as is_removed,
    {% endif %}
    loan_id,
    installment_count,
    due_dates,
    cum_due
from final
{% if since %}
union all
select
    true as is_removed,
    present.loan_id,
    present.installment_count,
    present.due_dates,
    present.cum_due
from {{ affected }} as affected
inner join {{ this }} as present on affected.loan_id = present.loan_id
left join final on present.loan_id = final.loan_id
where final.loan_id is null
{% endif %}
