{#
    Whether this command reads its inputs completely. `dbt build --empty` and `--sample` do not: such a run creates what
    is missing, for a check of the SQL, changes no relation that exists, and records nothing as taken in.
#}
{% macro reads_everything() %}
    {# Not among the flags that dbt shows to macros. #}
    {% set given = invocation_args_dict %}
    {{ return(not (given.get('empty') or given.get('EMPTY') or given.get('sample') or given.get('SAMPLE'))) }}
{% endmacro %}
