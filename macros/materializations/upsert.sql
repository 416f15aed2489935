{#
    A table that is kept current by key, in place: never dropped, swapped or truncated, so that whoever reads it is never
    disturbed, and only rows that really differ are written.

    Config:
      unique_key     list of the key's columns (also the contract's primary key)
      log_changes    also write each changed row to changes.<model>: as it was (_sign -1) and as it became (+1).
                     Models that follow read there which groups or keys were touched, before and after.
      accumulate     list of measures: the increment's SQL gives amounts to add to the present row of the key
      delete_when    with accumulate: the condition, on the summed row, under which it is removed ('payment_count = 0')
      unknown_member of a dimension: what the row of unknown_sk() has in its columns, as SQL by column; {} for nulls alone

    The model's SQL asks increment(): none means that everything is to be computed, and the table is brought to that
    result by its difference. Otherwise the SQL returns the affected keys only; where keys may have no row any more, with
    a boolean column is_removed (not with accumulate).

    Everything, the model's state included, is one transaction: a failure leaves the last complete state.
#}
{% materialization upsert, adapter='postgres' %}
    {% set target_relation = this.incorporate(type='table') %}
    {% set sql = aliased_once(sql) %}
    {% set keys = config.require('unique_key') %}
    {% set names = model.columns.values() | map(attribute='name') | list %}
    {% set accumulate = config.get('accumulate', []) %}
    {% set incoming = model.name ~ '__incoming' %}
    {% set difference = model.name ~ '__difference' %}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set run_id = assert_run_is_ours() %}
    {% set node = node_state() %}
    {% set since = increment() %}
    {% set known_hash = node.state['definition_hash'] if node.state is not none else '' %}
    {# By the project, or by hand: a column, a type, a constraint. #}
    {% set redefined = not node.exists or not node.is_as_made or content_of(known_hash) != content_of(node.definition_hash) %}
    {# Rebuilt: what follows from this model cannot rely on the change log, and is computed in full. #}
    {% set rebuilt = namespace(value=not node.is_complete or not node.is_as_made) %}

    {% if redefined or not reads_everything() %}
        {# Raises dbt's own message when the SQL's columns are not the contract's. #}
        {% do get_assert_columns_equivalent(sql) %}
    {% endif %}
    {% if not node.exists %}
        {% do create_upsert_table(target_relation, names, sql) %}
        {% set counts = first_row("select count(*) as inserted, 0 as updated, 0 as deleted from " ~ this) %}
    {% elif not reads_everything() or (since and not node.has_changes) %}
        {% set counts = {'inserted': 0, 'updated': 0, 'deleted': 0} %}
    {% else %}
        {% if redefined %}
            {% do undistribute(this, placement_of(model)) %}
            {% set rebuilt.value = alter_upsert_table() or rebuilt.value %}
        {% endif %}
        {% if rebuilt.value and config.get('log_changes') %}
            {% do create_change_log(target_relation) %}
        {% endif %}
        {% do run_statement("create temporary table " ~ incoming ~ " on commit drop as " ~ incoming_sql(since, names, keys, accumulate)) %}
        {% do run_statement("alter table " ~ incoming ~ " add column if not exists is_removed boolean not null default false") %}
        {% do analyze_small_sample(incoming) %}
        {% set present = rows_to_compare(this, model.name ~ '__present', placement_of(model)) %}
        {% do fetch_rows(this, present, placement_of(model), keys,
            "select " ~ comma_list(keys) ~ " from " ~ incoming if since else none) %}
        {% set comparison = difference_sql(since, names, keys, incoming, present) %}
        {% do run_statement("create temporary table " ~ difference ~ " on commit drop as " ~ comparison) %}
        {% set counts = count_difference(difference) %}
        {% if counts['inserted'] + counts['updated'] + counts['deleted'] > 0 %}
            {% do analyze_small_sample(difference) %}
            {% do apply_difference(target_relation, names, keys, difference, run_id, present) %}
            {% do analyze_rewritten(this, counts['inserted'] + counts['updated'] + counts['deleted']) %}
        {% endif %}
        {% if redefined %}
            {% do add_missing_constraints() %}
        {% endif %}
    {% endif %}
    {% if reads_everything() and (known_hash != node.definition_hash or not node.is_as_left) %}
        {% do create_upsert_indexes() %}
        {% do apply_grants(target_relation, config.get('grants'), should_revoke=node.exists) %}
        {% do persist_docs(target_relation, model) %}
        {% do place_table(target_relation, placement_of(model)) %}
    {% endif %}

    {% call statement('main') %}
        {{ record_rows(run_id, counts['inserted'], counts['updated'], counts['deleted']) }};
        {% if reads_everything() %}
        {{ save_model_state(model.name, run_id, node.definition_hash, landing_run=node.landing_run_id, rebuilt=rebuilt.value,
            recomputed=not since and counts['inserted'] + counts['updated'] + counts['deleted'] > 0) }};
        {% endif %}
    {% endcall %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
