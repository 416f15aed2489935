{% set copies = [
    'agg_payments', 'agg_payments_by_month', 'agg_loans', 'agg_customers', 'dim_payment_method', 'dim_branch',
    'dim_product', 'agg_collections', 'agg_loan_book', 'agg_disbursements', 'fact_loans', 'dim_provision_band',
    'agg_portfolio_totals', 'agg_portfolio_by_due_date', 'agg_officer_totals', 'agg_expected_dues', 'agg_overdue',
    'agg_month_ends_by_officer', 'agg_month_ends_by_branch', 'agg_loan_migration', 'agg_last_migration', 'agg_vintages',
    'agg_vintages_by_officer', 'dim_open_schedule'
] %}
{{ config(
    materialized='publish', schema='publish', grants={}, copies=copies, post_hook="{{ keep_reported_months() }}"
) }}

-- What its row holds comes from the extraction.
-- depends_on: {{ ref('extraction') }}
{% if var('build_order') %}
{% for copy in copies %}
-- depends_on: {{ ref(copy) }}
{% endfor %}
-- This model depends on every other mart as well, so that every test of a mart precedes it.
-- depends_on: {{ ref('dim_customer') }}
-- depends_on: {{ ref('dim_loan') }}
-- depends_on: {{ ref('dim_date') }}
-- depends_on: {{ ref('fact_payments') }}
-- depends_on: {{ ref('int_loan_schedules') }}
-- depends_on: {{ ref('fact_loan_month_end') }}
-- depends_on: {{ ref('stg_loan_products') }}
{% endif %}
select
    extraction_state.run_id,
    extraction_state.snapshot_time as data_as_of,
    clock_timestamp() as published_at
from audit.extraction_state
