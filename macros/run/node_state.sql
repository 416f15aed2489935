{#
    What a materialization asks about its own node, in one query, as a dictionary:
      exists           whether the relation is there
      is_complete      whether it is there with its change log, where it has one
      is_as_made       whether its definition in the database is the one that a run made (see stored_definition)
      is_as_left       whether its owner, options and grants are too
      state            as model_state returns it, or none
      parents_made     the last run that rebuilt one of the relations it reads, or whose changes their logs no longer have
      landing_run_id   the last extraction that it can take in: the last one, or less when a parent has not taken it in
      has_changes      whether there may be anything that it has not taken in: landing rows, or rows that a parent wrote
      definition_hash  what it is made of now, see definition_hash()

      went_back        whether the day of the data is in an earlier month than the one it has taken in
      month_passed     whether it is in a later month

    config follows_calendar=true: a month that has ended since is a change too, though no row changed.
    config reads_landing=false: nothing in the model follows from landing rows but through its parents.

    Asked once for each node: its SQL and what its materialization does with it rest on the same answer.
#}
{% macro node_state() %}
    {% set known = graph.setdefault('node_states', {}) %}
    {% if model.unique_id not in known %}
        {% do known.update({model.unique_id: find_node_state()}) %}
    {% endif %}
    {{ return(known[model.unique_id]) }}
{% endmacro %}

{#
    What node_state returns, read from the database.
#}
{% macro find_node_state() %}
    {% set audit, relation, summaries = audit_schema() | trim, sql_literal(this.render()), node_summaries() %}
    {% set parents = ["''"] %}
    {% set followed = ["''"] %}
    {% set made_of = ["''"] %}
    {% for node_id in model.depends_on.nodes %}
        {% set name = sql_literal(node_id.split('.')[-1]) %}
        {% do parents.append(name) %}
        {% set materialized = summaries.get(node_id, {}).get('materialized') %}
        {% if materialized in ('upsert', 'snapshot') %}
            {% do followed.append(name) %}
        {% elif materialized not in (none, 'extraction', 'publish') %}
            {% do made_of.append(name) %}
        {% endif %}
    {% endfor %}
    {% set question %}
        with parents as (
            select
                greatest(max(created_run_id), max(pruned_run_id)) as made,
                min(landing_run_id) filter (where model_name in ({{ followed | join(', ') }})) as landing_run_id,
                string_agg(
                    split_part(definition_hash, '.', 1) || coalesce('/' || nullif(repaired_run_id, 0), ''), ' '
                    order by model_name
                ) filter (where model_name in ({{ made_of | join(', ') }})) as content
            from {{ audit }}.model_states
            where model_name in ({{ parents | join(', ') }})
        ),

        extraction as (
            select
                coalesce(max(run_id), 0) as run_id,
                max({{ business_day('snapshot_time') }}) as data_day
            from audit.extraction_state
        )

        select
            to_regclass({{ relation }}) is not null
            {% if config.get('log_changes') %}
                and to_regclass({{ sql_literal(changes_of(model.name) | trim) }}) is not null
            {% endif %}
                as complete,
            to_regclass({{ relation }}) is not null as present,
            {% if config.get('materialized') in ('upsert', 'snapshot') %}
            {# An earlier version noted none. #}
            known.stored_definition is null or
            {% endif %}
            split_part(known.stored_definition, '.', 1)
                is not distinct from split_part(found.definition, '.', 1) as as_made,
            known.stored_definition is not distinct from found.definition as as_left,
            coalesce(parents.made, 0) as parents_made,
            parents.content as parents_content,
            least(parents.landing_run_id, extraction.run_id) as can_take_in,
            known.run_id,
            known.landing_run_id,
            known.definition_hash,
            known.stored_definition,
            known.data_day::text as data_day,
            coalesce(date_trunc('month', extraction.data_day) < date_trunc('month', known.data_day), false) as went_back,
            coalesce(date_trunc('month', extraction.data_day) > date_trunc('month', known.data_day), true) as month_passed,
            {% if config.get('reads_landing', true) %}
            known.landing_run_id is distinct from extraction.run_id or
            {% endif %}
            exists (
                select from {{ audit }}.model_runs as written
                where written.run_id > known.run_id
                    and written.node_name in ({{ parents | join(', ') }})
                    and written.rows_inserted + written.rows_updated + written.rows_deleted > 0
            )
            {% if config.get('follows_calendar') or config.get('recomputed_monthly') %}
            or date_trunc('month', extraction.data_day) > date_trunc('month', known.data_day)
            {% endif %}
            as has_changes
        from parents
        cross join extraction
        cross join (select {{ stored_definition() }} as definition) as found
        left join {{ audit }}.model_states as known on known.model_name = {{ sql_literal(model.name) }}
    {% endset %}
    {% set row = first_row(question) %}
    {{ return({
        'exists': row['present'],
        'is_complete': row['complete'],
        'is_as_made': row['as_made'],
        'is_as_left': row['as_left'],
        'parents_made': row['parents_made'] | int,
        'landing_run_id': row['can_take_in'] | int,
        'has_changes': row['has_changes'],
        'went_back': row['went_back'],
        'month_passed': row['month_passed'],
        'definition_hash': definition_hash(compiled_in_full(), row['parents_content']),
        'state': none if row['run_id'] is none else {
            'run_id': row['run_id'], 'landing_run_id': row['landing_run_id'], 'definition_hash': row['definition_hash'],
            'data_day': row['data_day'], 'stored_definition': row['stored_definition']
        }
    }) }}
{% endmacro %}
