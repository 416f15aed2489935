{#
    Before a run gets its id: have it follow all ids that the rows and states of this target know. What is new is told from
    what was taken in by these ids alone, so that an id that is given twice would hide changes, or count them twice.

    They are behind when somebody emptied the record of the runs with its counter, or put back an older copy of its schema.
    What the models had taken in is not known for certain then: all of them are computed in full.
#}
{% macro continue_run_ids() %}
    {% set audit = audit_schema() | trim %}
    {% set schemas = [sql_literal(schema_in_target('changes', target.name, target.schema) | trim)] %}
    {# The ids in the landing tables are those of the target that extracts. #}
    {% if is_production(target.name) %}
        {% do schemas.append("'operational'") %}
    {% endif %}
    {% set having_ids %}
        select format('%I.%I', nsp.nspname, cls.relname) as name
        from pg_class as cls
        inner join pg_namespace as nsp on cls.relnamespace = nsp.oid
        inner join pg_attribute as att on cls.oid = att.attrelid and att.attname = '_run_id'
        where nsp.nspname in ({{ schemas | join(', ') }}) and cls.relkind in ('r', 'p')
    {% endset %}
    {% set known = [
        "select max(greatest(run_id, created_run_id, recomputed_run_id, pruned_run_id, repaired_run_id)) as run_id from "
            ~ audit ~ ".model_states",
        "select max(run_id) from " ~ audit ~ ".etl_runs"
    ] %}
    {% if is_production(target.name) %}
        {% do known.extend(["select max(landing_run_id) from audit.model_states", "select max(run_id) from audit.extraction_state"]) %}
    {% endif %}
    {% for table in run_query(having_ids).rows %}
        {% do known.append("select max(_run_id) from " ~ table['name']) %}
    {% endfor %}
    {% set newest = first_row("select max(run_id) as run_id from (" ~ known | join(" union all ") ~ ") as known")['run_id'] %}
    {% set counter = first_row("select name, coalesce(pg_sequence_last_value(name::regclass), 0) as run_id from "
        ~ "pg_get_serial_sequence('" ~ audit ~ ".etl_runs', 'run_id') as counter (name)") %}
    {% if newest is not none and newest > counter['run_id'] %}
        {% do exceptions.warn("The record of the runs in " ~ audit ~ " knows less than the data: the next id would be one that "
            ~ "rows already have. It was emptied, or put back to an earlier state. The ids go on after " ~ newest
            ~ ", and all models are computed in full.") %}
        {# The counter last: until it has moved, the next run finds the same. #}
        {% do run_statement("delete from " ~ audit ~ ".model_states; select setval(" ~ sql_literal(counter['name']) ~ ", "
            ~ newest ~ "); commit") %}
    {% endif %}
{% endmacro %}
