{#
    Analyze a table that only one run works with (a temporary table, or a change log), by a small sample. Its joins are
    planned by how many rows it has and how often a key repeats, for which 3 000 rows suffice; the 30 000 of the usual
    statistics target took a fifth of the statements' time in an increment of 20 000 payments.
#}
{% macro analyze_small_sample(table) %}
    {% do run_statement("set local default_statistics_target = 10; analyze " ~ table ~ "; reset default_statistics_target") %}
{% endmacro %}
