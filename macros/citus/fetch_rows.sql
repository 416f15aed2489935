{#
    The relation that holds the rows of a table which a comparison on the coordinator needs: the table itself, or, where
    it is spread over the workers, a temporary table that fetch_rows fills.

    Citus would fetch the whole table for an outer join with a table of the coordinator. Fetched by key, what travels is
    what is compared.
#}
{% macro rows_to_compare(table, name, placement) %}
    {{ return(name if is_spread(placement) else table) }}
{% endmacro %}

{#
    Fill the temporary table that rows_to_compare named, with the rows whose key is in `probe` (a query), or with all.
#}
{% macro fetch_rows(table, name, placement, keys, probe=none) %}
    {% if name != table %}
        {% set copy %}
            create temporary table {{ name }} on commit drop as
            select present.* from {{ table }} as present
            {% if probe %}
            inner join ({{ probe }}) as probe on {{ keys_equal(keys, 'present', 'probe') }}
            {% endif %}
        {% endset %}
        {% do run_statement(copy) %}
        {% do analyze_small_sample(name) %}
    {% endif %}
{% endmacro %}
