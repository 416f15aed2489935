-- Each aggregate is what its fact adds up to, in every group and measure. Increments add to the aggregates, so a
-- group that was changed by hand, or went wrong once, would stay wrong. Reads complete facts, so it looks only when all
-- data is tested (dbt test, the nightly run, which also repairs it).
{% set money = ['payment_count', 'payment_amount', 'principal_amount', 'interest_amount', 'penalty_amount'] %}
{% set book = [
    'loan_count', 'disbursed_count', 'disbursed_amount', 'outstanding_balance', 'interest_rate_sum', 'total_paid',
    'interest_paid', 'payment_count'
] %}
{% set comparisons = {
    'agg_payments': ('by_payment', ['payment_month', 'method_sk', 'branch_sk'], money),
    'agg_collections': ('by_collection', ['payment_month', 'method_sk', 'branch_sk', 'customer_segment'], money),
    'agg_loans': ('by_loan', ['branch_sk', 'loan_status', 'customer_segment'], book + ['principal_amount']),
    'agg_loan_book': (
        'by_book', ['branch_sk', 'loan_officer', 'product_sk', 'customer_segment', 'loan_status'], book
    ),
    'agg_disbursements': (
        'by_disbursement',
        ['disbursement_month', 'branch_sk', 'product_sk', 'customer_segment'],
        ['loan_count', 'disbursed_amount']
    )
} %}

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
    select * from customers
    {% for aggregate, (expected, keys, measures) in comparisons.items() %}
    union all
    select
        '{{ aggregate }}' as aggregate_name,
        to_jsonb(expected) as expected,
        to_jsonb(found) as found
    from {{ expected }} as expected
    full outer join {{ ref(aggregate) }} as found on {{ keys_equal(keys, 'expected', 'found') }}
    where ({{ comma_list(measures, 'expected') }}) is distinct from ({{ comma_list(measures, 'found') }})
    {% endfor %}
)

select * from differences
where {{ tests_look_at_everything() }}
