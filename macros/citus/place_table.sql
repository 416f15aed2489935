{#
    Before a table is filled for the first time: spread it, when that is its place, so that its rows go straight to the
    workers. A reference table is placed by place_table when it is complete: Citus takes no DDL on it after its rows
    were written in the same transaction.
#}
{% macro place_empty_table(table, placement) %}
    {% if placement == 'distributed' %}
        {% do place_table(table, placement) %}
    {% endif %}
{% endmacro %}

{#
    Put a table where it belongs, unless it is there; its rows move along.
#}
{% macro place_table(table, placement) %}
    {% if not is_citus() or placement == 'coordinator' or is_placed(table) %}
        {{ return('') }}
    {% endif %}
    {% set name = sql_literal(table | string) %}
    {% set filled = first_row("select exists (select 1 from " ~ table ~ ") as filled")['filled'] %}
    {% if placement == 'distributed' %}
        {% do run_statement("select create_distributed_table(" ~ name ~ ", " ~ sql_literal(distribution_column()) ~ ")") %}
    {% else %}
        {% do run_statement("select create_reference_table(" ~ name ~ ")") %}
    {% endif %}
    {% if filled %}
        {# Its old rows stay on the coordinator's disk, unseen. #}
        {% do run_statement("select truncate_local_data_after_distributing_table(" ~ name ~ ")") %}
    {% endif %}
{% endmacro %}

{% macro is_placed(table) %}
    {% set question %}
        select exists (
            select from pg_dist_partition where logicalrelid = {{ sql_literal(table | string) }}::regclass
        ) as placed
    {% endset %}
    {{ return(first_row(question)['placed']) }}
{% endmacro %}

{#
    Before the columns of a table change: make a reference table an ordinary one again; place_table puts it back.
#}
{% macro undistribute(table, placement) %}
    {% if is_citus() and placement == 'reference' and is_placed(table) %}
        {% do run_statement("select undistribute_table(" ~ sql_literal(table | string) ~ ")") %}
    {% endif %}
{% endmacro %}
