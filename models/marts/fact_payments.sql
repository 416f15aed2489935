{{
    config(
        unique_key=['payment_id'],
        log_changes=true,
        indexes=[{'columns': ['loan_id']}]
    )
}}

-- depends_on: {{ ref('stg_loans') }}
{% set since = increment() %}

{#
    A payment is computed anew when it changed itself, when the loan got another version (which includes another branch
    or customer), or when the customer got another version: also one that arrives after its payments.
#}
with
{% if since %}
touched_loans as (
    select loan_id from {{ changes_of('dim_loan') }}
    where _run_id > {{ since.run_id }}
    union
    select loans.loan_id from {{ ref('stg_loans') }} as loans
    where
        loans.customer_id in (
            select customer_id from {{ changes_of('dim_customer') }}
            where _run_id > {{ since.run_id }}
        )
),

affected as (
    select payment_id from {{ ref('stg_payments') }}
    where _run_id > {{ since.landing_run_id }}
    union
    -- those that did not change themselves stand here with the loan that they have
    select present.payment_id from {{ this }} as present
    where present.loan_id in (select touched_loans.loan_id from touched_loans)
),
{% endif %}

payments as (
    {% if since %}
    select stg_payments.*
    from affected
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
        {{ date_sk("(payments.payment_date at time zone 'UTC')::date") }} as date_sk,
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
        date_trunc('month', payments.payment_date at time zone 'UTC')::date as payment_month,

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
