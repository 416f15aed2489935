-- The loans from the first to the last number wanted: to whom, how much, how long, and how the borrower will behave.
insert into demo_loan (
    n, customer_n, segment_no, product_id, amount, rate, tenure, weekly, instalments, instalment, applied, disbursed,
    branch_no, officer_no, favourite, careless, last_step, settles, stops
)
with placed as (
    -- Customers one behind the other, each with the years in which the lender exists: a loan is a place on
    -- this line. Multiples of the golden section are spread evenly however many there are, so that most borrowers have
    -- repaid one loan, or nearly, before they take the next.
    select
        n, first_year,
        case
            when place < 0.6 then place * 5 / 7 else (3 + 4 * first_year) / 7
        end * %(customers)s::float8 as customer_place
    from (
        select
            n, place,
            case when place < 0.6 then 0 else 1 - sqrt(greatest(2.5 * (1 - place), 0)) end as first_year
        from (
            select
                n,
                (
                    (n * {{ golden_section }} + ({{ bits("0::bigint", "first place") }} & {{ places - 1 }}))
                    & {{ places - 1 }}
                ) / {{ places }}::float8 as place
            from generate_series(%(first)s::bigint, %(last)s::bigint) as n
            offset 0
        ) as drawn
        offset 0
    ) as standing
    offset 0
),
dated as materialized (
    -- A few wait for their money; the others got it on some day, more of them lately. Nothing happens on Sundays.
    select
        n, customer_n, waits,
        applied_day - (mod(applied_day + 4, 7) = 0)::integer as applied_day,
        disbursed_day - (mod(disbursed_day + 4, 7) = 0)::integer as disbursed_day
    from (
        select
            n, customer_n, waits,
            case
                when waits then %(today)s::bigint - 1 - floor(40 * when_applied * when_applied)::bigint
                else disbursed_day - 2 - floor(13 * when_applied * when_applied)::bigint
            end as applied_day,
            disbursed_day
        from (
            select
                n, customer_n,
                {{ unit("n", "waits") }} < 0.025 as waits,
                {{ unit("n", "applied") }} as when_applied,
                -- A day may move by two months into a season: school fees, the harvest, December.
                case
                    when
                        extract(month from date '1970-01-01' + first_day::integer) not in (1, 5, 9, 12)
                        and extract(month from date '1970-01-01' + second_day::integer) in (1, 5, 9, 12)
                        and second_day between %(today)s::bigint - {{ history_days }} and %(today)s::bigint - 1
                        and {{ unit("n", "season") }} < 0.6
                        then second_day
                    else first_day
                end as disbursed_day
            from (
                select
                    n, customer_n, first_day, first_day - 60 + {{ below("n", "disbursed again", "121") }} as second_day
                from (
                    select
                        n,
                        least(%(customers)s::bigint, 1 + floor(customer_place)::bigint) as customer_n,
                        %(today)s::bigint - {{ history_days }} + least(floor({{ history_days }} * (
                            first_year + (1 - first_year) * (customer_place - floor(customer_place))
                        ))::bigint, {{ history_days - 1 }}) as first_day
                    from placed
                    offset 0
                ) as on_some_day
                offset 0
            ) as days
            offset 0
        ) as drawn
        offset 0
    ) as undated
),
owned as materialized (
    select
        dated.n, dated.waits, dated.applied_day, dated.disbursed_day, customer.n as customer_n,
        customer.segment_no, customer.home_branch, customer.country_no,
        case customer.segment_no
            when 1 then width_bucket({{ unit("dated.n", "product") }}, %(retail_products)s::float8[])
            when 2 then width_bucket({{ unit("dated.n", "product") }}, %(sme_products)s::float8[])
            else width_bucket({{ unit("dated.n", "product") }}, %(corporate_products)s::float8[])
        end as product_no,
        case customer.segment_no
            when 1 then width_bucket({{ unit("dated.n", "favourite") }}, %(retail_methods)s::float8[])
            when 2 then width_bucket({{ unit("dated.n", "favourite") }}, %(sme_methods)s::float8[])
            else width_bucket({{ unit("dated.n", "favourite") }}, %(corporate_methods)s::float8[])
        end as favourite,
        {{ unit("dated.n", "amount") }} as amount_draw,
        {{ unit("dated.n", "tenure") }} as tenure_draw,
        {{ unit("dated.n", "behaviour") }} as behaviour,
        -- Branches and their officers lend with more or less luck: from a quarter to twice the usual share of bad loans.
        (
            0.3 + 1.5 * {{ unit("customer.home_branch", "branch risk") }}
        ) * (0.7 + 0.6 * {{ unit(officer_slot("customer.home_branch", "dated.n"), "officer risk") }}) as risk,
        {{ unit("dated.n", "stop") }} as stop_draw
    from dated
    inner join demo_customer as customer on dated.customer_n = customer.n
),
sized as materialized (
    select
        owned.*,
        product_min + (product_max - product_min) * case segment_no
            when 1 then 0.005 + 0.28 * amount_draw * amount_draw * amount_draw
            when 2 then 0.02 + 0.55 * amount_draw * amount_draw
            else 0.15 + 0.85 * amount_draw
        end as wish,
        shortest + floor((longest - shortest + 1) * tenure_draw * (1.6 - 0.6 * tenure_draw))::bigint as months,
        product_rate + 2500 * {{ below("n", "rate", "25") }} - (array[0, 5000, 15000])[segment_no] as rate
    from (
        select
            owned.*,
            (%(product_min)s::bigint[])[product_no] as product_min,
            (%(product_max)s::bigint[])[product_no] as product_max,
            (%(product_shortest)s::integer[])[product_no] as shortest,
            (%(product_longest)s::integer[])[product_no] as longest,
            (%(product_rate)s::bigint[])[product_no] as product_rate,
            (%(product_is_weekly)s::boolean[])[product_no] as weekly
        from owned
        offset 0
    ) as owned
),
rounded as materialized (
    -- People borrow round amounts for usual times, as far as the product allows.
    select
        sized.*,
        greatest(product_min, least(product_max, round_to * floor(wish / round_to + 0.5)::bigint)) as amount,
        greatest(shortest, least(longest, month_step * ((months + month_step / 2) / month_step)))::integer as tenure
    from (
        select
            sized.*,
            case
                when wish < 10000000 then 50000
                when wish < 100000000 then 500000
                else 5000000
            end as round_to,
            case when months > 24 then 12 when months > 6 then 3 else 1 end as month_step
        from sized
        offset 0
    ) as sized
),
behaving as (
    select
        rounded.*,
        case when weekly then (tenure * 52 + 6) / 12 else tenure end as instalments,
        behaviour >= 1 - {{ stopping_share }} * risk as stops,
        behaviour >= 0.77 and behaviour < 0.83 as settles
    from rounded
    offset 0
)
select
    n, customer_n, segment_no, (%(product_ids)s::integer[])[product_no], amount, rate, tenure, weekly, instalments,
    round(amount * period_rate * growth / (growth - 1))::bigint,
    applied_day * 86400 + 18000 + {{ below("n", "applied second", "32400") }},
    case when not waits then disbursed_day * 86400 + 21600 + {{ below("n", "disbursed second", "28800") }} end,
    branch_no,
    1 + {{ officer_slot("branch_no", "n") }},
    favourite,
    behaviour >= 0.83 and not settles,
    case
        -- Few never pay at all.
        when stops then greatest((stop_draw > 0.05)::integer, floor(stop_draw * stop_draw * 0.8 * instalments)::integer)
        when settles then greatest(1, floor((0.3 + 0.5 * stop_draw) * instalments)::integer)
        else instalments
    end,
    settles, stops
from (
    select
        priced.*,
        power(1 + period_rate, instalments::numeric) as growth,
        case
            when {{ unit("n", "elsewhere") }} < 0.92 then home_branch
            else (%(country_start)s::integer[])[country_no]
                + {{ below("n", "other branch", "(%(country_count)s::integer[])[country_no]") }}
        end as branch_no
    from (
        select
            behaving.*,
            case when weekly then rate / {{ weekly }}.0 else rate / {{ monthly }}.0 end as period_rate
        from behaving
        offset 0
    ) as priced
    offset 0
) as complete
