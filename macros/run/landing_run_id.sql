{#
    The run of the last extraction: landing rows have at most this _run_id.
#}
{% macro landing_run_id() %}
    {% set row = first_row("select run_id from audit.extraction_state") %}
    {{ return(row['run_id'] | int if row is not none else 0) }}
{% endmacro %}
