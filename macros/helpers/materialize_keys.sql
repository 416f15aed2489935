{#
    Materialize the keys that an increment has to look up in a temporary table and return its name. The planner then knows
    how many keys there are; with a sub-query it guesses, and scans a complete table instead of looking up a few keys.

    since: what increment() returned; without changes nothing is materialized, and the name refers to no table.
    name: of the keys, unique in the model. query: SQL that returns them, each once.

    materialize_keys(since, 'affected', 'select loan_id from …') -> fact_loans__affected
#}
{% macro materialize_keys(since, name, query) %}
    {% set table = model.name ~ '__' ~ name %}
    {% if since.has_changes %}
        {% do run_statement("create temporary table " ~ table ~ " on commit drop as " ~ query) %}
        {% do analyze_small_sample(table) %}
    {% endif %}
    {{ return(table) }}
{% endmacro %}
