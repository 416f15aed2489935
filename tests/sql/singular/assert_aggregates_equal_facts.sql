-- Each aggregate is what its fact adds up to, in every group and measure. Increments add to the aggregates, so a
-- group that was changed by hand, or went wrong once, would stay wrong. Reads complete facts, so it looks only when all
-- data is tested (dbt test, the nightly run, which also repairs it).
with by_payment as (
    select
        payment_month,
        method_sk,
        branch_sk,
        count(*) as payment_count,
        sum(payment_amount) as payment_amount,
        sum(principal_amount) as principal_amount,
        sum(interest_amount) as interest_amount,
        sum(penalty_amount) as penalty_amount
    from {{ ref('fact_payments') }}
    where {{ tests_look_at_everything() }}
    group by payment_month, method_sk, branch_sk
),

by_loan as (
    select
        branch_sk,
        loan_status,
        customer_segment,
        count(*) as loan_count,
        count(*) filter (where is_disbursed) as disbursed_count,
        sum(principal_amount) as principal_amount,
        coalesce(sum(principal_amount) filter (where is_disbursed), 0) as disbursed_amount,
        sum(outstanding_balance) as outstanding_balance,
        sum(interest_rate) as interest_rate_sum,
        sum(total_paid) as total_paid,
        sum(interest_paid) as interest_paid,
        sum(payment_count)::bigint as payment_count
    from {{ ref('fact_loans') }}
    where {{ tests_look_at_everything() }}
    group by branch_sk, loan_status, customer_segment
),

by_collection as (
    select
        payments.payment_month,
        payments.method_sk,
        coalesce(loans.branch_sk, {{ unknown_sk() }}) as branch_sk,
        coalesce(loans.customer_segment, 'unknown') as customer_segment,
        count(*) as payment_count,
        sum(payments.payment_amount) as payment_amount,
        sum(payments.principal_amount) as principal_amount,
        sum(payments.interest_amount) as interest_amount,
        sum(payments.penalty_amount) as penalty_amount
    from {{ ref('fact_payments') }} as payments
    left join {{ ref('fact_loans') }} as loans on payments.loan_id = loans.loan_id
    where {{ tests_look_at_everything() }}
    group by
        payments.payment_month, payments.method_sk, coalesce(loans.branch_sk, {{ unknown_sk() }}),
        coalesce(loans.customer_segment, 'unknown')
),

by_book as (
    select
        branch_sk,
        loan_officer,
        product_sk,
        customer_segment,
        loan_status,
        count(*) as loan_count,
        count(*) filter (where is_disbursed) as disbursed_count,
        coalesce(sum(principal_amount) filter (where is_disbursed), 0) as disbursed_amount,
        sum(outstanding_balance) as outstanding_balance,
        sum(interest_rate) as interest_rate_sum,
        sum(total_paid) as total_paid,
        sum(interest_paid) as interest_paid,
        sum(payment_count)::bigint as payment_count
    from {{ ref('fact_loans') }}
    where {{ tests_look_at_everything() }}
    group by branch_sk, loan_officer, product_sk, customer_segment, loan_status
),

by_disbursement as (
    select
        date_trunc('month', days.full_date)::date as disbursement_month,
        loans.branch_sk,
        loans.product_sk,
        loans.customer_segment,
        count(*) as loan_count,
        sum(loans.principal_amount) as disbursed_amount
    from {{ ref('fact_loans') }} as loans
    inner join {{ ref('dim_date') }} as days on loans.disbursement_date_sk = days.date_sk
    where {{ tests_look_at_everything() }} and loans.is_disbursed and days.date_sk <> {{ unknown_sk() }}
    group by date_trunc('month', days.full_date), loans.branch_sk, loans.product_sk, loans.customer_segment
),

by_customer as (
    select
        customer_id,
        count(*) as total_loans,
        sum(total_paid) as total_paid,
        sum(payment_count)::bigint as payment_count,
        max(last_payment_date) as last_payment_date
    from {{ ref('fact_loans') }}
    where {{ tests_look_at_everything() }}
    group by customer_id
),

payments as (
    select
        'agg_payments' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from by_payment as expected
    full outer join {{ ref('agg_payments') }} as found
        on
            expected.payment_month = found.payment_month
            and expected.method_sk = found.method_sk
            and expected.branch_sk = found.branch_sk
    where
        (
            expected.payment_count, expected.payment_amount, expected.principal_amount, expected.interest_amount,
            expected.penalty_amount
        ) is distinct from (
            found.payment_count, found.payment_amount, found.principal_amount, found.interest_amount,
            found.penalty_amount
        )
),

loans as (
    select
        'agg_loans' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from by_loan as expected
    full outer join {{ ref('agg_loans') }} as found
        on
            expected.branch_sk = found.branch_sk
            and expected.loan_status = found.loan_status
            and expected.customer_segment = found.customer_segment
    where
        (
            expected.loan_count, expected.disbursed_count, expected.principal_amount, expected.disbursed_amount,
            expected.outstanding_balance, expected.interest_rate_sum, expected.total_paid, expected.interest_paid,
            expected.payment_count
        ) is distinct from (
            found.loan_count, found.disbursed_count, found.principal_amount, found.disbursed_amount,
            found.outstanding_balance, found.interest_rate_sum, found.total_paid, found.interest_paid,
            found.payment_count
        )
),

collections as (
    select
        'agg_collections' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from by_collection as expected
    full outer join {{ ref('agg_collections') }} as found
        on
            expected.payment_month = found.payment_month
            and expected.method_sk = found.method_sk
            and expected.branch_sk = found.branch_sk
            and expected.customer_segment = found.customer_segment
    where
        (
            expected.payment_count, expected.payment_amount, expected.principal_amount, expected.interest_amount,
            expected.penalty_amount
        ) is distinct from (
            found.payment_count, found.payment_amount, found.principal_amount, found.interest_amount,
            found.penalty_amount
        )
),

book as (
    select
        'agg_loan_book' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from by_book as expected
    full outer join {{ ref('agg_loan_book') }} as found
        on
            expected.branch_sk = found.branch_sk
            and expected.loan_officer = found.loan_officer
            and expected.product_sk = found.product_sk
            and expected.customer_segment = found.customer_segment
            and expected.loan_status = found.loan_status
    where
        (
            expected.loan_count, expected.disbursed_count, expected.disbursed_amount, expected.outstanding_balance,
            expected.interest_rate_sum, expected.total_paid, expected.interest_paid, expected.payment_count
        ) is distinct from (
            found.loan_count, found.disbursed_count, found.disbursed_amount, found.outstanding_balance,
            found.interest_rate_sum, found.total_paid, found.interest_paid, found.payment_count
        )
),

disbursements as (
    select
        'agg_disbursements' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from by_disbursement as expected
    full outer join {{ ref('agg_disbursements') }} as found
        on
            expected.disbursement_month = found.disbursement_month
            and expected.branch_sk = found.branch_sk
            and expected.product_sk = found.product_sk
            and expected.customer_segment = found.customer_segment
    where
        (expected.loan_count, expected.disbursed_amount)
        is distinct from (found.loan_count, found.disbursed_amount)
),

customers as (
    select
        'agg_customers' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from by_customer as expected
    full outer join {{ ref('agg_customers') }} as found on expected.customer_id = found.customer_id
    where
        (
            coalesce(expected.total_loans, 0), coalesce(expected.total_paid, 0), coalesce(expected.payment_count, 0),
            expected.last_payment_date
        ) is distinct from (found.total_loans, found.total_paid, found.payment_count, found.last_payment_date)
),

differences as (
    select * from payments
    union all
    select * from loans
    union all
    select * from customers
    union all
    select * from collections
    union all
    select * from book
    union all
    select * from disbursements
)

select * from differences
where {{ tests_look_at_everything() }}
