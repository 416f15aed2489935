{#
    Analyze a table of which this transaction has written more than a fifth. Autovacuum sees that only when the transaction
    has ended, and until it comes by the planner takes the table for what it was, and loops over it: when a book of eight
    loans got three thousand, fact_loan_month_end took five minutes instead of two seconds.
#}
{% macro analyze_rewritten(table) %}
    {% set question %}
        select
            pg_stat_get_xact_tuples_inserted(oid) + pg_stat_get_xact_tuples_updated(oid)
            + pg_stat_get_xact_tuples_deleted(oid) > 200 + 0.2 * greatest(reltuples, 0) as is_due
        from pg_class
        where oid = {{ sql_literal(table | string) }}::regclass
    {% endset %}
    {% if first_row(question)['is_due'] %}
        {% do run_statement("analyze " ~ table) %}
    {% endif %}
{% endmacro %}
