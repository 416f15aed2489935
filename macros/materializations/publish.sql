{#
    The last step of a build: bring the published copies of the marts, which the dashboard views read, to the state that
    the build has made and tested, all of them in one transaction, changed rows only.

    dbt runs a model's tests before what depends on it, and this depends on every mart: when a test failed anywhere, this
    is skipped and the dashboards keep the last good state. `dbt run` runs no tests, so it does not publish.

    Config: copies, the list of marts to publish (models with unique_key; with log_changes only changed keys are looked at).
#}
{% materialization publish, adapter='postgres' %}
    {% set target_relation = this.incorporate(type='table') %}
    {% set copies = config.require('copies') %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% if flags.WHICH != 'build' %}
        {% do log('Not published: dbt run runs no tests. Use dbt build, which publishes what passed them.', info=true) %}
        {% call statement('main') %}
            select 'not published' as note
        {% endcall %}
        {{ adapter.commit() }}
        {{ return({'relations': []}) }}
    {% endif %}

    {% set run_id = assert_run_is_ours() %}
    {% do assert_marts_are_complete() %}
    {% set node = node_state() %}
    {% set state = node.state %}
    {% set present = columns_of_copies(copies) %}
    {% set total = namespace(inserted=0, updated=0, deleted=0) %}
    {% for copy in copies if node.has_changes or copy_is_not_as(copy, present[copy]) %}
        {% set counts = publish_copy(copy, present[copy], state) %}
        {% set total.inserted = total.inserted + counts.inserted %}
        {% set total.updated = total.updated + counts.updated %}
        {% set total.deleted = total.deleted + counts.deleted %}
    {% endfor %}

    {% if not node.exists %}
        {% set columns = adapter.render_raw_columns_constraints(raw_columns=model.columns) %}
        {% do run_statement("create table " ~ this ~ " (" ~ columns | join(', ') ~ ")") %}
        {% do persist_docs(target_relation, model) %}
    {% endif %}
    {% call statement('main') %}
        delete from {{ this }};
        insert into {{ this }} (run_id, data_as_of, published_at)
        {{ sql }};
        {{ record_rows(run_id, total.inserted, total.updated, total.deleted) }};
        {{ save_model_state(model.name, run_id, definition_hash()) }};
    {% endcall %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
