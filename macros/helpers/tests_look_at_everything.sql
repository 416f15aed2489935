{#
    Whether tests look at all data: in `dbt test`, in a build with full_tests, and where nothing is executed.
#}
{% macro tests_look_at_everything() %}
    {{ return(not execute or flags.WHICH != 'build' or var('full_tests')) }}
{% endmacro %}
