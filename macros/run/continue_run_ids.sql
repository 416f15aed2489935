{#
    Have the ids of runs follow all that the data of this target knows. What is new is told from what was taken in by these
    ids alone, so that an id that is given twice would hide changes, or count them twice.

    They are behind when somebody emptied the record of the runs with its counter, or put back an older copy of its schema.
    What the models had taken in is not known for certain then: all of them are computed in full.

    known: queries of the newest ids (ids_of_record, ids_of_changes).
#}
{% macro continue_run_ids(known) %}
    {% set audit = audit_schema() | trim %}
    {% set newest = first_row("select max(run_id) as run_id from (" ~ known | join(" union all ") ~ ") as known")['run_id'] %}
    {% set counter = first_row("select name, coalesce(pg_sequence_last_value(name::regclass), 0) as run_id from "
        ~ "pg_get_serial_sequence('" ~ audit ~ ".etl_runs', 'run_id') as counter (name)") %}
    {% if newest is none or newest <= counter['run_id'] %}
        {{ return('') }}
    {% endif %}
    {% do exceptions.warn("The record of the runs in " ~ audit ~ " knows less than the data: the next id would be one that rows "
        ~ "already have. It was emptied, or put back to an earlier state. The ids go on after " ~ newest
        ~ ", and all models are computed in full.") %}
    {# The counter moves at once, and for good: only when the states are gone for good. This run may have its id already. #}
    {% set repair %}
        delete from {{ audit }}.model_states;
        commit;
        select setval({{ sql_literal(counter['name']) }}, {{ newest }});
        update {{ audit }}.etl_runs
        set run_id = default
        where dbt_invocation_id = {{ sql_literal(invocation_id) }} and status = 'running';
        commit
    {% endset %}
    {% do run_statement(repair) %}
{% endmacro %}

{#
    Of the record itself, as a list of queries. Nobody holds a lock on it for long, so that a start beside a running run is
    refused at once.
#}
{% macro ids_of_record() %}
    {% set audit = audit_schema() | trim %}
    {% set known = [
        "select max(greatest(run_id, created_run_id, recomputed_run_id, pruned_run_id, repaired_run_id)) as run_id from "
            ~ audit ~ ".model_states",
        "select max(run_id) from " ~ audit ~ ".etl_runs"
    ] %}
    {# The ids in the landing tables are those of the target that extracts. #}
    {% if is_production(target.name) %}
        {% do known.append("select max(landing_run_id) from audit.model_states") %}
        {% do known.append("select max(run_id) from audit.extraction_state") %}
    {% endif %}
    {{ return(known) }}
{% endmacro %}

{#
    Of the rows in change logs, as a list of queries. A row of a landing table with a later id than its model's state is only
    read once more; a row of a change log would be added up once more.
#}
{% macro ids_of_changes() %}
    {% set having_ids %}
        select format('select max(_run_id) as run_id from %I.%I', nsp.nspname, cls.relname) as query
        from pg_class as cls
        inner join pg_namespace as nsp on cls.relnamespace = nsp.oid
        inner join pg_attribute as att on cls.oid = att.attrelid and att.attname = '_run_id' and not att.attisdropped
        where nsp.nspname = {{ sql_literal(schema_in_target('changes', target.name, target.schema) | trim) }}
            and cls.relkind in ('r', 'p')
    {% endset %}
    {{ return(run_query(having_ids).columns[0].values() | list or ["select null::bigint as run_id"]) }}
{% endmacro %}
