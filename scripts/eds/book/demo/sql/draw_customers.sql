-- Customers with the day they joined, the lower numbers earlier.
insert into demo_customer (n, segment_no, city_no, country_no, home_branch, joined)
select
    n, segment_no, city_no, (%(city_country)s::integer[])[city_no],
    (%(city_start)s::integer[])[city_no] + {{ below("n", "branch", "(%(city_count)s::integer[])[city_no]") }},
    -- Three of seven in the year before the first loans.
    (
        %(today)s::bigint - {{ history_days + 366 }} + floor(
            case when rank < 3.0::float8 / 7 then 365 * rank * 7 / 3 else 365 + {{ history_days }} * (7 * rank - 3) / 4 end
        )::bigint
    )
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
