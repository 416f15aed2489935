{#
    The keys that an increment has to look at, gathered in a temporary table, whose name is returned. The planner knows
    how many they are; of a sub-query it guesses, and then rather reads a whole table than look up a few keys.

    since: what increment() gave; without anything new the keys are not gathered, and the name is of no table.
    name: of the keys, unique in the model. query: SQL that gives them, each once.

    gathered(since, 'affected', 'select loan_id from …') -> fact_loans__affected
#}
{% macro gathered(since, name, query) %}
    {% set table = model.name ~ '__' ~ name %}
    {% if since.has_news %}
        {% do run_statement("create temporary table " ~ table ~ " on commit drop as " ~ query) %}
        {% do run_statement("analyze " ~ table) %}
    {% endif %}
    {{ return(table) }}
{% endmacro %}
