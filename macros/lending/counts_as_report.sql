{#
    Whether what was kept of a month is a report of it, as an SQL condition. It is none when it is stamped ahead of now:
    the warehouse's clock was ahead when it was kept. Nor when it was kept before the last day of its month, and that day
    has come since: then the source's clock was ahead. Until that day such a one counts: otherwise each run would report
    the month again for as long as the source's clock is wrong.

    The same as in scripts/eds/warehouse/closing.py. A day may differ: the time zone is a setting that may change.

    kept: the alias of reported_month_ends.
#}
{% macro counts_as_report(kept) -%}
    {{ kept }}.reported_at <= statement_timestamp()
    and (
        {{ business_day(kept ~ '.reported_at') }} >= {{ kept }}.month_end
        or {{ business_day('statement_timestamp()') }} < {{ kept }}.month_end
    )
{%- endmacro %}
