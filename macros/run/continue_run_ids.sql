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
    {% set newest = [
        "(select max(greatest(run_id, created_run_id, recomputed_run_id, pruned_run_id, repaired_run_id)) from "
            ~ audit ~ ".model_states)",
        "(select max(run_id) from " ~ audit ~ ".etl_runs)"
    ] %}
    {% if is_production(target.name) %}
        {% do newest.append("(select max(landing_run_id) from audit.model_states)") %}
        {% do newest.append("(select max(run_id) from audit.extraction_state)") %}
    {% endif %}
    {% for table in run_query(having_ids).rows %}
        {% do newest.append("(select max(_run_id) from " ~ table['name'] ~ ")") %}
    {% endfor %}
    {% set question %}
        select counter.name, greatest({{ newest | join(', ') }}) as newest
        from pg_get_serial_sequence('{{ audit }}.etl_runs', 'run_id') as counter (name)
        where greatest({{ newest | join(', ') }}) > coalesce(pg_sequence_last_value(counter.name::regclass), 0)
    {% endset %}
    {% set behind = first_row(question) %}
    {% if behind is not none %}
        {% do exceptions.warn("The record of the runs in " ~ audit ~ " knows less than the data: the next id would be one that "
            ~ "rows already have. It was emptied, or put back to an earlier state. The ids go on after " ~ behind['newest']
            ~ ", and all models are computed in full.") %}
        {# The counter last: until it has moved, the next run finds the same. #}
        {% do run_statement("delete from " ~ audit ~ ".model_states; select setval(" ~ sql_literal(behind['name']) ~ ", "
            ~ behind['newest'] ~ "); commit") %}
    {% endif %}
{% endmacro %}
