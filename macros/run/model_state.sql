{#
    How far a model has got, as a dictionary, or none when it never finished:
    run_id (the last run it took in), landing_run_id (the last extraction it took in), definition_hash.

    model_state('fact_loans')['landing_run_id'] -> 41
#}
{% macro model_state(model_name) %}
    {{ return(first_row("select run_id, landing_run_id, definition_hash
        from " ~ audit_schema() ~ ".model_states where model_name = " ~ sql_literal(model_name))) }}
{% endmacro %}

{#
    The run of the last extraction: landing rows have at most this _run_id.
#}
{% macro landing_run_id() %}
    {% set row = first_row("select run_id from audit.extraction_state") %}
    {{ return(row['run_id'] | int if row is not none else 0) }}
{% endmacro %}

{#
    What a materialization asks about its own node, in one query, as a dictionary:
      exists          whether the relation is there
      state           as model_state gives it, or none
      parents_made    the run that made one of the models it reads anew, the last one of them
      landing_run_id  the last extraction that it can take in: the last one, or less when a parent has not taken it in
      has_news        whether there may be anything that it has not taken in: landing rows, or rows that a parent wrote

    config reads_landing=false: nothing in the model follows from landing rows but through its parents.
#}
{% macro node_state() %}
    {% set parents = ["''"] %}
    {% set followed = ["''"] %}
    {% for node_id in model.depends_on.nodes %}
        {% do parents.append(sql_literal(node_id.split('.')[-1])) %}
        {% if node_id in graph.nodes and graph.nodes[node_id].config.materialized in ('upsert', 'snapshot') %}
            {% do followed.append(sql_literal(node_id.split('.')[-1])) %}
        {% endif %}
    {% endfor %}
    {% set row = first_row("
        with parents as (
            select
                max(created_run_id) as made,
                min(landing_run_id) filter (where model_name in (" ~ followed | join(', ') ~ ")) as landing_run_id
            from " ~ audit_schema() ~ ".model_states
            where model_name in (" ~ parents | join(', ') ~ ")
        ),

        extraction as (
            select coalesce(max(run_id), 0) as run_id from audit.extraction_state
        )

        select
            to_regclass(" ~ sql_literal(this.render()) ~ ") is not null as present,
            coalesce(parents.made, 0) as parents_made,
            least(parents.landing_run_id, extraction.run_id) as can_take_in,
            known.run_id,
            known.landing_run_id,
            known.definition_hash,
            " ~ ("known.landing_run_id is distinct from extraction.run_id or" if config.get('reads_landing', true)) ~ "
            exists (
                select from " ~ audit_schema() ~ ".model_runs as written
                where written.run_id > known.run_id
                    and written.node_name in (" ~ parents | join(', ') ~ ")
                    and written.rows_inserted + written.rows_updated + written.rows_deleted > 0
            ) as has_news
        from parents
        cross join extraction
        left join " ~ audit_schema() ~ ".model_states as known on known.model_name = " ~ sql_literal(model.name)) %}
    {{ return({
        'exists': row['present'],
        'parents_made': row['parents_made'] | int,
        'landing_run_id': row['can_take_in'] | int,
        'has_news': row['has_news'],
        'state': none if row['run_id'] is none else {
            'run_id': row['run_id'], 'landing_run_id': row['landing_run_id'], 'definition_hash': row['definition_hash']
        }
    }) }}
{% endmacro %}

{#
    The statement that records that a model has taken in everything up to this run. In the model's own transaction:
    a model that fails, or is killed, leaves its state where it was, and catches up next time.

    landing_run: the extraction that it has taken in (default: the last one). made_anew: the relation was made anew in
    this run, so that what reads it is computed in full.
#}
{% macro save_model_state(model_name, run_id, definition_hash, landing_run=none, made_anew=false) %}
    insert into {{ audit_schema() }}.model_states (model_name, run_id, landing_run_id, created_run_id, definition_hash)
    values (
        {{ sql_literal(model_name) }},
        {{ run_id }},
        {{ landing_run if landing_run is not none else 'coalesce((select run_id from audit.extraction_state), 0)' }},
        {{ run_id }},
        {{ sql_literal(definition_hash) }}
    )
    on conflict (model_name) do update
    set
        run_id = excluded.run_id,
        landing_run_id = excluded.landing_run_id,
        definition_hash = excluded.definition_hash,
        {% if made_anew %}
        created_run_id = excluded.created_run_id,
        {% endif %}
        updated_at = clock_timestamp()
{% endmacro %}

{#
    post-hook of the snapshots: fence, indexes, then save the state, in the snapshot's own transaction.
#}
{% macro mark_done() %}
    {% if execute and records_runs() %}
        {% do place_table(this, placement_of(model)) %}
        {% for column in [config.get('unique_key'), 'dbt_scd_id', '_run_id'] %}
            {% do run_statement("create index if not exists " ~ model.name ~ "_" ~ column ~ "_idx on " ~ this ~ " (" ~ column ~ ")") %}
        {% endfor %}
        {{ save_model_state(model.name, assert_run_is_ours(), definition_hash()) }}
    {% endif %}
{% endmacro %}

{#
    What a model has to take in, as a dictionary with landing_run_id and run_id (everything later is new to it) and
    has_news (whether there may be anything), or none when it has to compute everything: it is new, its definition
    changed, a relation it reads was made anew, or --full-refresh was given. Commands that only compile see none, and so
    the whole definition.

    Use: {% set since = increment() %} … {% if since %} where _run_id > {{ since.landing_run_id }} {% endif %}
    The numbers are literals in the compiled SQL because the planner misjudges a sub-query in their place.

    seen: what node_state() gave, when it was asked already.
#}
{% macro increment(seen=none) %}
    {% if not execute or not records_runs() or model.resource_type != 'model' or should_full_refresh() %}
        {{ return(none) }}
    {% endif %}
    {% set node = seen or node_state() %}
    {% set state = node.state %}
    {% if not node.exists or state is none or state['definition_hash'] != definition_hash() %}
        {{ return(none) }}
    {% endif %}
    {% if node.parents_made > state['run_id'] | int %}
        {{ return(none) }}
    {% endif %}
    {{ return({'run_id': state['run_id'] | int, 'landing_run_id': state['landing_run_id'] | int, 'has_news': node.has_news}) }}
{% endmacro %}

{#
    What a model is made of, in one short text: its SQL (with that of ephemeral parents), columns, types, constraints,
    indexes and grants; a snapshot's keys and compared columns. When it changes, the model is computed anew, in place.
#}
{% macro definition_hash() %}
    {% set parts = [model.raw_code, model.columns | string, model.constraints | string, model.description,
                    config.get('indexes') | string, config.get('grants') | string] %}
    {% if model.resource_type == 'snapshot' %}
        {% do parts.extend([config.get('strategy'), config.get('unique_key') | string, config.get('updated_at'),
                            config.get('check_cols') | string]) %}
    {% endif %}
    {% for node_id in model.depends_on.nodes %}
        {% if node_id in graph.nodes and graph.nodes[node_id].config.materialized == 'ephemeral' %}
            {% do parts.append(graph.nodes[node_id].raw_code) %}
        {% endif %}
    {% endfor %}
    {{ return(local_md5(parts | join('|'))) }}
{% endmacro %}

{#
    The change log of a model that is configured with log_changes: its columns, _run_id, and _sign (-1 as it was, +1 as
    it became).

    changes_of('fact_payments') -> changes.fact_payments
#}
{% macro changes_of(model_name) -%}
    {{ schema_in_target('changes', target.name, target.schema) }}.{{ model_name }}
{%- endmacro %}
