{#
    SQL as dbt compiles it for --empty and --sample, without the alias that dbt gives the part of a relation where the SQL
    gives it another one.

    aliased_once('from (select * from loans where false limit 0) _dbt_limit_subq_loans as present')
        -> from (select * from loans where false limit 0) as present
#}
{% macro aliased_once(sql) %}
    {{ return(modules.re.sub(' _dbt_(limit|et_filter)_subq_\\w+(?=\\s+as\\s)', '', sql)) }}
{% endmacro %}
