{#
    Whether the present test looks at all data: in `dbt test`, in a build with full_tests, where nothing is executed, and
    until it has passed over all of it (is_proven).
#}
{% macro tests_look_at_everything() %}
    {{ return(not execute or flags.WHICH != 'build' or var('full_tests') or not is_proven(model.unique_id)) }}
{% endmacro %}
