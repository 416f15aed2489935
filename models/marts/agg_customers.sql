{{
    config(
        unique_key=['customer_id'],
        log_changes=true,
        indexes=[{'columns': ['total_paid desc', 'customer_id'], 'name': 'agg_customers_by_total_paid_idx'}]
    )
}}

{% set since = increment() %}

{% if since %}
{% set keys %}
select customer_id from {{ changes_of('dim_customer') }}
where _run_id > {{ since.run_id }} and customer_id is not null
union
select customer_id from {{ changes_of('fact_loans') }}
where _run_id > {{ since.run_id }}
{% endset %}
{% set affected = materialize_keys(since, 'affected', keys) %}
{% endif %}

with customers as (
    {% if since %}
    select
        affected.customer_id,
        dim_customer.full_name,
        dim_customer.customer_segment,
        dim_customer.city,
        dim_customer.customer_id is null as is_removed
    from {{ affected }} as affected
    left join {{ ref('dim_customer') }} as dim_customer
        on affected.customer_id = dim_customer.customer_id and dim_customer.is_current
    {% else %}
    select
        customer_id,
        full_name,
        customer_segment,
        city
    from {{ ref('dim_customer') }}
    where is_current and customer_id is not null
    {% endif %}
),

loan_totals as (
    select
        loans.customer_id,
        count(*) as total_loans,
        sum(loans.total_paid) as total_paid,
        sum(loans.payment_count)::bigint as payment_count,
        max(loans.last_payment_date) as last_payment_date
    from {{ ref('fact_loans') }} as loans
    {% if since %}
    where loans.customer_id in (select customer_id from {{ affected }})
    {% endif %}
    group by loans.customer_id
),

final as (
    select
        customers.*,
        coalesce(loan_totals.total_loans, 0) as total_loans,
        coalesce(loan_totals.total_paid, 0) as total_paid,
        coalesce(loan_totals.payment_count, 0) as payment_count,
        loan_totals.last_payment_date
    from customers
    left join loan_totals on customers.customer_id = loan_totals.customer_id
)

select
    {% if since %}
    is_removed,
    {% endif %}
    customer_id,
    full_name,
    customer_segment,
    city,
    total_loans,
    total_paid,
    payment_count,
    last_payment_date
from final
