with methods as (
    select * from {{ published('dim_payment_method') }}
),

payments as (
    select
        method_sk,
        sum(payment_count)::bigint as payment_count,
        sum(payment_amount) as total_amount
    from {{ published('agg_payments') }}
    group by method_sk
)

select
    methods.method_name,
    coalesce(payments.payment_count, 0) as payment_count,
    coalesce(payments.total_amount, 0) as total_amount,
    coalesce(round(100 * payments.total_amount / nullif(sum(payments.total_amount) over (), 0), 2), 0) as pct_of_total
from methods
left join payments on methods.method_sk = payments.method_sk
-- the unknown member shows up only when there is something in it
where methods.method_sk <> {{ unknown_sk() }} or payments.payment_count > 0
order by total_amount desc, methods.method_name asc
