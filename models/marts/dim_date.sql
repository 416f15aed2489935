{{ config(reads_landing=false, unique_key=['date_sk'], indexes=[{'columns': ['full_date'], 'unique': true}]) }}

-- depends_on: {{ ref('extraction') }}
{% set since = increment() %}

with days as (
    select day::date as full_date
    from generate_series(timestamp '{{ calendar_start() }}', timestamp '{{ calendar_end() }}', interval '1 day') as day
    {% if since %}
    -- The calendar is fixed: there is never anything new in it.
    where false
    {% endif %}
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

{% if since %}
select
    *,
    false as is_removed
from final
{% else %}
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
union all
select
    {{ unknown_sk() }} as date_sk,
    null as full_date,
    null as day,
    null as month,
    'unknown' as month_name,
    null as quarter,
    null as year,
    null as week_of_year,
    null as day_of_week,
    'unknown' as day_name,
    null as is_weekend,
    null as is_month_end
{% endif %}
