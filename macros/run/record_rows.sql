{#
    The statement that records how many rows a model changed in this run. In the model's own transaction.
#}
{% macro record_rows(run_id, inserted, updated, deleted) %}
    insert into {{ audit_schema() }}.model_runs
    (run_id, node_id, node_name, resource_type, status, seconds, rows_inserted, rows_updated, rows_deleted)
    values (
        {{ run_id }}, {{ sql_literal(model.unique_id) }}, {{ sql_literal(model.name) }},
        {{ sql_literal(model.resource_type | string) }}, 'running', 0,
        {{ inserted }}, {{ updated }}, {{ deleted }}
    )
    on conflict (run_id, node_id) do update
    set
        rows_inserted = excluded.rows_inserted,
        rows_updated = excluded.rows_updated,
        rows_deleted = excluded.rows_deleted
{% endmacro %}
