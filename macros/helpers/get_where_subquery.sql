{#
    dbt's hook for a test's `where`. Three words stand for "what this build has to look at": the rows of payments, loans
    or customers that changed since the last published state. A state that failed its tests was not published, so its
    rows are looked at again. `dbt test`, and a build with full_tests, look at everything.

      where: __changed_payments__    on a relation with payment_id
      where: __changed_loans__       on a relation with loan_id
      where: __changed_customers__   on a relation with customer_id
#}
{% macro get_where_subquery(relation) %}
    {% set words = {
        '__changed_payments__': ['payment_id', 'operational.payments'],
        '__changed_loans__': ['loan_id', 'operational.loans'],
        '__changed_customers__': ['customer_id', 'operational.customers']
    } %}
    {% set where = config.get('where') %}
    {% if where not in words %}
        {{ return(adapter.dispatch('get_where_subquery', 'dbt')(relation)) }}
    {% endif %}
    {% set published = model_state('published_state') if execute and flags.WHICH == 'build' and not var('full_tests') else none %}
    {% if published is none %}
        {{ return(relation) }}
    {% endif %}
    {% set key, landing = words[where] %}
    {{ return("(select * from " ~ relation ~ " where " ~ key ~ " in (select " ~ key ~ " from " ~ landing
        ~ " where _run_id > " ~ published['landing_run_id'] ~ ")) dbt_subquery") }}
{% endmacro %}
