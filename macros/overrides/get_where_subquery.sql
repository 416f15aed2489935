{#
    dbt's hook for a test's `where`. Four words stand for "what this build has to look at":

      where: __changed_rows__        on a staging model, whose rows have _run_id; deleted ones prove nothing, and are left out
      where: __changed_payments__    on a relation with payment_id
      where: __changed_loans__       on a relation with loan_id
      where: __changed_customers__   on a relation with customer_id
#}
{% macro get_where_subquery(relation) %}
    {% set words = {
        '__changed_rows__': [none, none],
        '__changed_payments__': ['payment_id', 'operational.payments'],
        '__changed_loans__': ['loan_id', 'operational.loans'],
        '__changed_customers__': ['customer_id', 'operational.customers']
    } %}
    {% set where = config.get('where') %}
    {% if where not in words %}
        {{ return(adapter.dispatch('get_where_subquery', 'dbt')(relation)) }}
    {% endif %}
    {# The rows of a mart also change with those of others: a payment's with its loan's. #}
    {% set node = graph.nodes.get('model.' ~ project_name ~ '.' ~ relation.identifier) if execute else none %}
    {% set mart = relation.identifier if node and node.config.get('log_changes') else none %}
    {% set condition = changed_since_published(words[where][0], words[where][1], mart) | trim %}
    {% if where == '__changed_rows__' %}
        {% set condition = "(" ~ condition ~ ") and not is_deleted" %}
    {% endif %}
    {{ return("(select * from " ~ relation ~ " where " ~ condition ~ ") as dbt_subquery") }}
{% endmacro %}
