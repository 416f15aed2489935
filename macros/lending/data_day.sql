{#
    The as-of date, as an SQL expression: the calendar day of the data (vw_data_as_of.data_as_of) in
    BUSINESS_TIMEZONE. It moves with the data, not with the clock: when runs stop, figures stay at the data's day.
    No literal, which would make another definition of the model each day.
#}
{% macro data_day() -%}
    (select {{ business_day('extraction_state.snapshot_time') }} from audit.extraction_state)
{%- endmacro %}
