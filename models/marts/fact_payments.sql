{{
    config(
        unique_key=['payment_id'],
        log_changes=true,
        indexes=[{'columns': ['loan_id', 'payment_date']}]
    )
}}

-- depends_on: {{ ref('dim_date') }}
{% set since = increment() %}

{#
    A payment is recomputed when it changed itself, when the loan got another version (which includes another branch
    or customer), or when another version of the customer is now the one valid at its date: also one that arrives after
    its payments. Payments that did not change themselves stand here with the loan that they have.
#}
{% if since %}
{% set keys %}
with versions as (
    {{ changed_validity('dim_customer', 'customer_id', 'customer_sk', since) }}
),

touched_customers as (
    select
        customer_id,
        min(touched_from) as touched_from
    from versions
    group by customer_id
)

select payment_id from {{ ref('stg_payments') }}
where _run_id > {{ since.landing_run_id }}
union
select present.payment_id from {{ this }} as present
where
    present.loan_id in (
        select loan_id from {{ changes_of('dim_loan') }}
        where _run_id > {{ since.run_id }}
    )
union
select present.payment_id
from touched_customers
inner join {{ ref('dim_loan') }} as loans on touched_customers.customer_id = loans.customer_id
inner join {{ this }} as present
    on loans.loan_id = present.loan_id and touched_customers.touched_from <= present.payment_date
{% endset %}
{% set affected = materialize_keys(since, 'affected', keys) %}
{% endif %}

with payments as (
    {% if since %}
    select stg_payments.*
    from {{ affected }} as affected
    inner join {{ ref('stg_payments') }} as stg_payments on affected.payment_id = stg_payments.payment_id
    {% else %}
    select * from {{ ref('stg_payments') }}
    where not is_deleted
    {% endif %}
),

final as (
    select
        -- keys
        payments.payment_id,
        payments.loan_id,
        coalesce(dim_customer.customer_sk, {{ unknown_sk() }}) as customer_sk,
        coalesce(dim_loan.loan_sk, {{ unknown_sk() }}) as loan_sk,
        {{ date_sk(business_day('payments.payment_date')) }} as date_sk,
        coalesce(dim_payment_method.method_sk, {{ unknown_sk() }}) as method_sk,
        -- where the loan is today, so that the views agree with the OLTP; loan_sk leads to the branch of that time
        coalesce(current_loan.branch_sk, {{ unknown_sk() }}) as branch_sk,

        -- measures
        payments.payment_amount,
        payments.principal_amount,
        payments.interest_amount,
        payments.penalty_amount,

        -- dates
        payments.payment_date,
        -- A deleted row of an older book may hold the earliest date there is, which has no first day of its month.
        {{ business_month("greatest(payments.payment_date, timestamptz '0001-01-02 00:00+00')") }} as payment_month,

        payments.is_deleted
    from payments
    left join {{ ref('dim_loan') }} as current_loan
        on payments.loan_id = current_loan.loan_id and current_loan.is_current
    left join {{ ref('dim_loan') }} as dim_loan
        on
            payments.loan_id = dim_loan.loan_id
            and payments.payment_date >= dim_loan.valid_from
            and payments.payment_date < dim_loan.valid_to
    left join {{ ref('dim_customer') }} as dim_customer
        on
            coalesce(dim_loan.customer_id, current_loan.customer_id) = dim_customer.customer_id
            and payments.payment_date >= dim_customer.valid_from
            and payments.payment_date < dim_customer.valid_to
    left join {{ ref('dim_payment_method') }} as dim_payment_method
        on payments.method_code = dim_payment_method.method_code
)

select
    {% if since %}
    is_deleted as is_removed,
    {% endif %}
    payment_id,
    loan_id,
    customer_sk,
    loan_sk,
    date_sk,
    method_sk,
    branch_sk,
    payment_amount,
    principal_amount,
    interest_amount,
    penalty_amount,
    payment_date,
    payment_month
from final
