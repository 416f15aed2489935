{#
    Whether this command reads its inputs completely. `dbt build --empty` and `--sample` do not: such a run creates what
    is missing, for a check of the SQL, changes no relation that exists, and records nothing as taken in.
#}
{% macro reads_everything() %}
    {{ return(not (flags.EMPTY or flags.SAMPLE)) }}
{% endmacro %}
