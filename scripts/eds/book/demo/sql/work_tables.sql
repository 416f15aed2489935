-- Days are numbers of days since 1970-01-01, times are seconds since then (UTC), money is cents, rates are
-- ten-thousandths of a percent a year. A loan's number n is its rank among the drawn ones; identifiers come at the end.
-- In the statements of this folder, `offset 0` keeps the planner from merging a sub-query, which would compute its
-- expressions several times over.
create temporary table demo_customer (
    n bigint primary key, segment_no integer, city_no integer, country_no integer, home_branch bigint, joined bigint,
    customer_id integer
) on commit drop;
create temporary table demo_loan (
    n bigint primary key, customer_n bigint, segment_no integer, product_id integer, amount bigint, rate bigint,
    tenure integer, weekly boolean, instalments integer, instalment bigint, applied bigint, disbursed bigint,
    branch_no bigint, officer_no bigint, favourite integer, careless boolean, last_step integer, settles boolean, stops boolean, loan_id bigint
) on commit drop;
create temporary table demo_payment (
    n bigint, part bigint, paid bigint, method_no integer, principal bigint, interest bigint, penalty bigint,
    remark integer
) on commit drop;
create temporary table demo_paid (
    n bigint primary key, payments bigint, principal bigint, last_recorded bigint
) on commit drop;
