{#
    How far a model has got, as a dictionary, or none when it never finished:
    run_id (the last run it took in), landing_run_id (the last extraction it took in), definition_hash, stored_definition.

    model_state('fact_loans')['landing_run_id'] -> 41
#}
{% macro model_state(model_name) %}
    {% set question %}
        select run_id, landing_run_id, definition_hash, stored_definition
        from {{ audit_schema() }}.model_states
        where model_name = {{ sql_literal(model_name) }}
    {% endset %}
    {{ return(first_row(question)) }}
{% endmacro %}

{#
    The statement that records that a model has taken in everything up to this run. In the model's own transaction:
    a model that fails, or is killed, leaves its state where it was, and catches up next time.

    landing_run: the extraction that it has taken in (default: the last one). rebuilt: the relation was rebuilt in
    this run, so that what reads it is computed in full. recomputed: its rows changed otherwise than by an increment
    (another definition, a repair), so that tests of what changed look at all of them. repaired: a view, function or seed
    was found other than a run had left it, and was put right: what reads it, directly or not, has another content (see
    definition_hash), since it may have been computed from what was there. stored: what the database has of it, as an SQL
    expression (default: of the present node).
#}
{% macro save_model_state(model_name, run_id, definition_hash, landing_run=none, rebuilt=false, recomputed=false, repaired=false, stored=none) %}
    insert into {{ audit_schema() }}.model_states
    (model_name, run_id, landing_run_id, created_run_id, recomputed_run_id, definition_hash, stored_definition, data_day)
    values (
        {{ sql_literal(model_name) }},
        {{ run_id }},
        {{ landing_run if landing_run is not none else 'coalesce((select run_id from audit.extraction_state), 0)' }},
        {{ run_id }},
        {{ run_id }},
        {{ sql_literal(definition_hash) }},
        {{ stored or stored_definition() }},
        (select {{ business_day('snapshot_time') }} from audit.extraction_state)
    )
    on conflict (model_name) do update
    set
        run_id = excluded.run_id,
        landing_run_id = excluded.landing_run_id,
        definition_hash = excluded.definition_hash,
        stored_definition = excluded.stored_definition,
        data_day = excluded.data_day,
        {% if rebuilt %}
        created_run_id = excluded.created_run_id,
        {% endif %}
        {% if repaired %}
        repaired_run_id = excluded.run_id,
        {% endif %}
        {% if rebuilt or recomputed %}
        recomputed_run_id = excluded.recomputed_run_id,
        {% endif %}
        updated_at = clock_timestamp()
{% endmacro %}
