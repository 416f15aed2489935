-- Customers with the day they joined, the lower numbers earlier.
insert into demo_customer (n, segment_no, city_no, country_no, home_branch, joined)
select
    n, segment_no, city_no, (%(city_country)s::integer[])[city_no],
    (%(city_start)s::integer[])[city_no] + {{ below("n", "branch", "(%(city_count)s::integer[])[city_no]") }},
    (%(today)s::bigint - {{ customer_days + 1 }} + floor({{ customer_days }} * rank)::bigint)
    * 86400 + 18000 + {{ below("n", "joined", "32400") }}
from (
    select
        n,
        width_bucket({{ unit("n", "segment") }}, %(segment_bounds)s::float8[]) as segment_no,
        width_bucket({{ unit("n", "city") }}, %(city_bounds)s::float8[]) as city_no,
        (n - {{ unit("n", "rank") }}) / %(customers)s::float8 as rank
    from generate_series(1, %(customers)s::bigint) as n
    offset 0
) as drawn
