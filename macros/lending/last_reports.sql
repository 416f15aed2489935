{#
    A query: the last report of each month that has ended as of the data, a row per branch. A clock that was ahead leaves
    reports of months that have not ended, and ones that count as none.
#}
{% macro last_reports() %}
    select versions.*
    from (
        select
            kept.*,
            max(kept.report_version) over (partition by kept.month_end) as last_version
        from {{ published_relation('reported_month_ends') }} as kept
        cross join {{ ref('published_state') }} as state
        where
            kept.month_end < {{ business_day('state.data_as_of') }}
            and {{ counts_as_report('kept') }}
    ) as versions
    where versions.report_version = versions.last_version
{% endmacro %}
