{{
    config(
        unique_key=['date_sk'],
        unknown_member={'month_name': "'unknown'", 'day_name': "'unknown'"},
        indexes=[{'columns': ['full_date'], 'unique': true}]
    )
}}

{% set since = increment() %}

{#
    The calendar follows the data: 2018 to 2050 always, every year from the first to the last one in which something
    happens between 1900 and 2199, and beyond those the years alone that occur (a maturity of 9999-12-31 says "never").
    An increment adds years; only a full computation leaves out one that no longer occurs.
#}
{% set days = {
    'stg_loans': [business_day('disbursed_at'), 'maturity_date', 'written_off_on'],
    'stg_payments': [business_day('payment_date')]
} %}

with years_of_data as (
    {% for staging_model, columns in days.items() %}
    {% set outer_loop = loop %}
    {% for day in columns %}
    select extract(year from {{ day }})::integer as year
    from {{ ref(staging_model) }}
    where
        {{ date_sk(day) }} <> {{ unknown_sk() }}
        {% if since %}
        and _run_id > {{ since.landing_run_id }}
        {% endif %}
    group by 1
    {{ 'union' if not (outer_loop.last and loop.last) }}
    {% endfor %}
    {% endfor %}
),

years as (
    select
        generate_series(
            least(min(year) filter (where year >= 1900), 2018), greatest(max(year) filter (where year < 2200), 2050)
        ) as year
    from years_of_data
    union
    select year from years_of_data
    {% if since %}
    except
    select year from {{ this }}
    {% endif %}
),

days as (
    select day::date as full_date
    from years
    cross join lateral generate_series(
        make_date(year, 1, 1)::timestamp, make_date(year, 12, 31)::timestamp, interval '1 day'
    ) as day
),

final as (
    select
        to_char(full_date, 'YYYYMMDD')::integer as date_sk,
        full_date,
        extract(day from full_date)::integer as day,
        extract(month from full_date)::integer as month,
        to_char(full_date, 'FMMonth') as month_name,
        extract(quarter from full_date)::integer as quarter,
        extract(year from full_date)::integer as year,
        extract(week from full_date)::integer as week_of_year,
        extract(isodow from full_date)::integer as day_of_week,
        to_char(full_date, 'FMDay') as day_name,
        extract(isodow from full_date) in (6, 7) as is_weekend,
        full_date = (date_trunc('month', full_date) + interval '1 month - 1 day')::date as is_month_end
    from days
)

select
    date_sk,
    full_date,
    day,
    month,
    month_name,
    quarter,
    year,
    week_of_year,
    day_of_week,
    day_name,
    is_weekend,
    is_month_end
from final
