{#
    The last step of a build: bring the published copies of the marts, which the dashboard views read, to the state that
    the build has made and tested, all of them in one transaction, changed rows only.

    Only tested states are published, whatever the command: every test of a mart, or of what is in front of it, has passed
    since the rows that it looks at last changed (assert_state_is_tested). dbt runs a model's tests before what depends on
    it, and this depends on every mart.

    Config: copies, the list of marts to publish (models with unique_key; with log_changes only changed keys are looked at).
    A copy is compared in full with its mart when one of them was rebuilt, and in the nightly run. A mart's config
    indexes_of_copy names indexes that the views need, and that its own table would only have to keep.
#}
{% materialization publish, adapter='postgres' %}
    {% set target_relation = this.incorporate(type='table') %}
    {% set copies = config.require('copies') %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set run_id = assert_run_is_ours() %}
    {% do assert_copies_are_parents(copies) %}
    {% set untested = [] if not reads_everything() else untested_nodes() %}
    {% if not reads_everything() or (flags.WHICH == 'run' and untested) %}
        {% do log('Not published: ' ~ ('a run with --empty or --sample reads only a part.' if not reads_everything()
            else 'dbt run runs no tests. dbt build publishes what passed them.'), info=true) %}
        {% call statement('main') %}
            select 'not published' as note
        {% endcall %}
        {{ adapter.commit() }}
        {{ return({'relations': []}) }}
    {% endif %}

    {# A test that failed is also why other marts were not brought to this state: it is the one to name. #}
    {% do assert_state_is_tested(untested) %}
    {% do assert_marts_are_complete() %}
    {% set node = node_state() %}
    {% set state = node.state %}
    {# No increment, when one of the marts was rebuilt: its change log does not show what changed. #}
    {% set compare_all = not node.exists or increment() is none or var('full_tests') %}
    {% set present = state_of_copies(copies) %}
    {% if add_columns_to_copies(copies, present) %}
        {# Readers wait for DDL until it is committed, so that is at once. The run may have been taken over meanwhile. #}
        {% do run_statement('commit') %}
        {% do run_statement('begin') %}
        {% set run_id = assert_run_is_ours() %}
    {% endif %}
    {% set total = namespace(inserted=0, updated=0, deleted=0) %}
    {% for copy in copies %}
        {% set by_key = not compare_all and not present[copy].differs and node_of_mart(copy).config.get('log_changes') %}
        {% if node.has_changes or compare_all or present[copy].differs %}
            {% set counts = publish_copy(copy, present[copy], state['run_id'] if by_key else none) %}
            {% if compare_all %}
                {% do create_upsert_indexes(node_of_mart(copy), published_relation(copy)) %}
            {% endif %}
            {% do create_upsert_indexes(node_of_mart(copy), published_relation(copy), 'indexes_of_copy') %}
            {% set total.inserted = total.inserted + counts.inserted %}
            {% set total.updated = total.updated + counts.updated %}
            {% set total.deleted = total.deleted + counts.deleted %}
        {% endif %}
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
        {{ save_model_state(model.name, run_id, node.definition_hash) }};
    {% endcall %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do drop_left_copies(copies) %}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{#
    Drop the copies of models that an earlier version published and this one does not. While a view still reads one (those of
    the earlier version are replaced behind this model), or somebody has it locked, it stays, and a later run drops it.
#}
{% macro drop_left_copies(copies) %}
    {% set kept = [sql_literal(this.identifier)] %}
    {% for copy in copies %}
        {% do kept.append(sql_literal(copy)) %}
    {% endfor %}
    {% set left %}
        select pg_class.relname as name
        from pg_class
        inner join {{ audit_schema() }}.model_states on pg_class.relname = model_states.model_name
        where pg_class.relnamespace = to_regnamespace({{ sql_literal(this.schema) }})
            and pg_class.relkind = 'r' and pg_class.relname not in ({{ kept | join(', ') }})
    {% endset %}
    {% for row in run_query(left).rows %}
        {% set ddl %}
            do $ddl$
            declare
                usual_timeout text := current_setting('lock_timeout');
            begin
                perform set_config('lock_timeout', '300ms', true);
                begin
                    drop table {{ published_relation(row['name']) }};
                exception when lock_not_available or dependent_objects_still_exist then
                    raise notice 'kept for now: %', sqlerrm;
                end;
                perform set_config('lock_timeout', usual_timeout, true);
            end
            $ddl$
        {% endset %}
        {% do run_statement(ddl) %}
    {% endfor %}
{% endmacro %}

{#
    Raise when a mart is to be published that this model does not wait for.
#}
{% macro assert_copies_are_parents(copies) %}
    {% set parents = [] %}
    {% for node_id in model.depends_on.nodes %}
        {% do parents.append(node_id.split('.')[-1]) %}
    {% endfor %}
    {% for copy in copies if copy not in parents %}
        {{ exceptions.raise_compiler_error(
            model.name ~ " publishes " ~ copy ~ " (config copies), but does not depend on it: add a ref() to it."
        ) }}
    {% endfor %}
{% endmacro %}
