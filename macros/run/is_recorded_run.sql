{#
    Whether this dbt command changes the warehouse, and so counts as a run: it is recorded, and only one may run at a time.
#}
{% macro is_recorded_run() %}
    {{ return(execute and flags.WHICH in ('build', 'run', 'seed', 'snapshot')) }}
{% endmacro %}
