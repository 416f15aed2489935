{#
    Before changed rows are written: delete the present ones that belong to another shard, because their loan is another
    one now. Citus changes no row's shard. Nothing to do where the row's key says its loan.

    changed: a table with the keys and the distribution column as they will be.
#}
{% macro delete_moved(table, changed, keys, placement) %}
    {% if key_in_place(keys, placement) != keys %}
        {% set deletion %}
            delete from {{ table }} as present
            using (select * from {{ changed }}) as changed
            where {{ keys_equal(keys, 'present', 'changed') }}
                and present.{{ distribution_column() }} <> changed.{{ distribution_column() }}
        {% endset %}
        {% do run_statement(deletion) %}
    {% endif %}
{% endmacro %}
