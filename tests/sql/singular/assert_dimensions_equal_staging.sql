-- The current row of every customer, loan and product is what staging makes of the source's row now. Versions come
-- through the history, so that a change that it missed would stay missed. Reads complete dimensions, so it looks only
-- when all data is tested (dbt test, the nightly run).
with expected as (
    select
        'dim_customer' as dimension_name,
        customer_id::bigint as entity_id,
        jsonb_build_array(full_name, city, country, customer_segment, is_active) as attributes
    from {{ ref('stg_customers') }}
    where not is_deleted and {{ tests_look_at_everything() }}
    union all
    select
        'dim_loan' as dimension_name,
        loan_id as entity_id,
        jsonb_build_array(
            customer_id, loan_status, principal_amount, interest_rate, tenure_months, disbursed_at, maturity_date,
            loan_officer, branch_code
        ) as attributes
    from {{ ref('stg_loans') }}
    where not is_deleted and {{ tests_look_at_everything() }}
    union all
    select
        'dim_product' as dimension_name,
        product_id::bigint as entity_id,
        jsonb_build_array(
            product_name, product_type, min_amount, max_amount, min_tenure_months, max_tenure_months,
            is_active and not is_deleted
        ) as attributes
    from {{ ref('stg_loan_products') }}
    where {{ tests_look_at_everything() }}
),

found as (
    select
        'dim_customer' as dimension_name,
        customer_id::bigint as entity_id,
        jsonb_build_array(full_name, city, country, customer_segment, is_active) as attributes
    from {{ ref('dim_customer') }}
    where is_current and customer_sk <> {{ unknown_sk() }} and {{ tests_look_at_everything() }}
    union all
    select
        'dim_loan' as dimension_name,
        loan_id as entity_id,
        jsonb_build_array(
            customer_id, loan_status, principal_amount, interest_rate, tenure_months, disbursed_at, maturity_date,
            loan_officer, branch_code
        ) as attributes
    from {{ ref('dim_loan') }}
    where is_current and loan_sk <> {{ unknown_sk() }} and {{ tests_look_at_everything() }}
    union all
    select
        'dim_product' as dimension_name,
        product_id::bigint as entity_id,
        jsonb_build_array(
            product_name, product_type, min_amount, max_amount, min_tenure_months, max_tenure_months, is_active
        ) as attributes
    from {{ ref('dim_product') }}
    where product_sk <> {{ unknown_sk() }} and {{ tests_look_at_everything() }}
)

select
    coalesce(expected.dimension_name, found.dimension_name) as dimension_name,
    coalesce(expected.entity_id, found.entity_id) as entity_id,
    expected.attributes as expected_attributes,
    found.attributes as found_attributes
from expected
full outer join found on expected.dimension_name = found.dimension_name and expected.entity_id = found.entity_id
where expected.attributes is distinct from found.attributes
