-- The classes of each scheme cover all days past due, from 0 on, without gap or overlap; and the scheme that
-- PROVISION_SCHEME names is there. Otherwise loans would be missing in the provisions, or be in two classes.
with bands as (
    select
        scheme,
        class,
        min_days,
        max_days,
        lag(max_days) over (partition by scheme order by class_rank) as max_days_before,
        lead(min_days) over (partition by scheme order by class_rank) as min_days_after
    from {{ ref('dim_provision_band') }}
)

select
    scheme,
    class,
    'its days do not follow on those of the class before' as problem
from bands
where
    min_days <> coalesce(max_days_before + 1, 0)
    or (min_days_after is null and max_days < 2147483647)
{% if reads_everything() %}
union all
select
    {{ sql_literal(lending_settings().provision_scheme) }} as scheme,
    null as class,
    'PROVISION_SCHEME names no scheme of seeds/provision_bands.csv' as problem
where
    not exists (
        select 1 from bands
        where scheme = {{ sql_literal(lending_settings().provision_scheme) }}
    )
{% endif %}
