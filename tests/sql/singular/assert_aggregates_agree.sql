-- The dashboard views are read side by side, so the aggregates that they show must be the same money, in every measure
-- that two of them have: months = methods × branches, branches by payment = branches by loan, loans = customers.
-- Without it a single aggregate that went wrong would be shown. Only aggregates are read, so this runs in every build.
{% set comparisons = {
    'months': ('by_month', 'by_payment_month'),
    'branches': ('by_payment_branch', 'by_loan_branch'),
    'months with segments': ('by_month', 'by_collection_month'),
    'branches and segments': ('by_collection_group', 'by_loan_group'),
    'officers and products': ('by_officer_and_product', 'by_status'),
    'customers': ('by_loan', 'by_customer')
} %}

with by_month as (
    select
        payment_month::text as part,
        array[payment_count, payment_amount, principal_amount, interest_amount, penalty_amount] as measures
    from {{ ref('agg_payments_by_month') }}
),

{% for name, aggregate in [('by_payment_month', 'agg_payments'), ('by_collection_month', 'agg_collections')] %}
{{ name }} as (
    select
        payment_month::text as part,
        array[
            sum(payment_count), sum(payment_amount), sum(principal_amount), sum(interest_amount), sum(penalty_amount)
        ] as measures
    from {{ ref(aggregate) }}
    group by payment_month
),

{% endfor %}
by_collection_group as (
    select
        branch_sk || ' ' || customer_segment as part,
        array[sum(payment_count), sum(payment_amount), sum(interest_amount)] as measures
    from {{ ref('agg_collections') }}
    group by branch_sk, customer_segment
),

by_loan_group as (
    select
        branch_sk || ' ' || customer_segment as part,
        array[sum(payment_count), sum(total_paid), sum(interest_paid)] as measures
    from {{ ref('agg_loans') }}
    group by branch_sk, customer_segment
    having sum(payment_count) <> 0
),

{% for name, aggregate in [('by_status', 'agg_loans'), ('by_officer_and_product', 'agg_loan_book')] %}
{{ name }} as (
    select
        branch_sk || ' ' || loan_status || ' ' || customer_segment as part,
        array[
            sum(loan_count), sum(disbursed_count), sum(disbursed_amount), sum(outstanding_balance),
            sum(interest_rate_sum), sum(total_paid), sum(interest_paid), sum(payment_count)
        ] as measures
    from {{ ref(aggregate) }}
    group by branch_sk, loan_status, customer_segment
),

{% endfor %}
by_payment_branch as (
    select
        branch_sk::text as part,
        array[sum(payment_count), sum(payment_amount), sum(interest_amount)] as measures
    from {{ ref('agg_payments') }}
    group by branch_sk
),

by_loan_branch as (
    select
        branch_sk::text as part,
        array[sum(payment_count), sum(total_paid), sum(interest_paid)] as measures
    from {{ ref('agg_loans') }}
    group by branch_sk
    having sum(payment_count) <> 0
),

by_loan as (
    select
        'all' as part,
        array[coalesce(sum(loan_count), 0), coalesce(sum(payment_count), 0), coalesce(sum(total_paid), 0)] as measures
    from {{ ref('agg_loans') }}
),

by_customer as (
    select
        'all' as part,
        array[coalesce(sum(total_loans), 0), coalesce(sum(payment_count), 0), coalesce(sum(total_paid), 0)] as measures
    from {{ ref('agg_customers') }}
),

compared as (
    {% for comparison, (one, other) in comparisons.items() %}
    select
        '{{ comparison }}' as comparison,
        coalesce(one.part, other.part) as part,
        one.measures,
        other.measures as other_measures
    from {{ one }} as one
    full outer join {{ other }} as other on one.part = other.part
    {{ 'union all' if not loop.last }}
    {% endfor %}
)

select * from compared
where measures is distinct from other_measures
