{#
    The id of this invocation's run. Raises when the run is no longer ours: another one took it for dead and took over,
    so that anything written now would mix two runs. The row is locked against such a take-over until the transaction
    ends, which makes this a fence in front of every write.
#}
{% macro assert_run_is_ours() %}
    {% set running %}
        select run_id
        from {{ audit_schema() }}.etl_runs
        where dbt_invocation_id = {{ sql_literal(invocation_id) }} and status = 'running' for share
    {% endset %}
    {% set row = first_row(running) %}
    {% if row is none %}
        {{ exceptions.raise_compiler_error(
            "This run was taken over by another one, which found it dead. Nothing was written by this step."
        ) }}
    {% endif %}
    {{ return(row['run_id'] | int) }}
{% endmacro %}
