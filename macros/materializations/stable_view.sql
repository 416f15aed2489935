{#
    A view that is created or replaced only when its definition changed, or somebody replaced it. dbt's own view is
    dropped and created in each run, which takes dependent views along and makes readers queue. With a contract, its
    columns are checked first. Its grants, options and owner are put back when somebody altered them.
#}
{% materialization stable_view, adapter='postgres' %}
    {% set target_relation = this.incorporate(type='view') %}
    {% set sql = aliased_once(sql) %}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set node = node_state() %}
    {% set known_hash = node.state['definition_hash'] if node.state is not none else '' %}
    {% if node.exists and (not reads_everything() or (known_hash == node.definition_hash and node.is_as_left)) %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': [target_relation]}) }}
    {% endif %}

    {% set run_id = assert_run_is_ours() %}
    {# A state of an earlier version does not say what was made: the view is made again, and nothing is held to be wrong. #}
    {% set repaired = node.exists and node.state is not none and node.state['stored_definition'] is not none and not node.is_as_made %}
    {% if repaired %}
        {% do log(this ~ ' was not as a run had made it: it is made again, and what reads it is computed in full.', info=true) %}
    {% endif %}
    {% if not node.exists or not node.is_as_made or content_of(known_hash) != content_of(node.definition_hash) %}
        {% if config.get('contract').enforced %}
            {# Raises dbt's own message when the SQL's columns are not the contract's. #}
            {% do get_assert_columns_equivalent(sql) %}
        {% endif %}
        {% if node.exists and not (view_besides_its_sql()['is_ours'] and replaceable(sql)) %}
            {% do drop_this_view() %}
        {% endif %}
        {% do run_ddl(this, 'create or replace view ' ~ this ~ ' as ' ~ sql) %}
    {% elif not node.is_as_left %}
        {% do put_back_owner_and_options(sql) %}
    {% endif %}
    {% call statement('main') %}
        select 'created' as note
    {% endcall %}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=node.exists) %}
    {% do persist_docs(target_relation, model) %}
    {% if reads_everything() %}
        {% do run_statement(save_model_state(model.name, run_id, node.definition_hash,
            recomputed=repaired or content_of(known_hash) != content_of(node.definition_hash), repaired=repaired)) %}
    {% endif %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{% macro drop_this_view() %}
    {% do run_ddl(this, 'drop view ' ~ this ~ (' cascade' if only_own_views_depend_on_it())) %}
{% endmacro %}

{#
    What a view is besides its SQL: is_ours (whether it belongs to the role that runs), options (the names of those that
    are set, none: no option is). The project sets none: with security_invoker, readers would need what the view reads.
#}
{% macro view_besides_its_sql() %}
    {% set question %}
        select
            pg_get_userbyid(relowner) = current_user as is_ours,
            (select string_agg(option_name, ', ') from pg_options_to_table(reloptions)) as options
        from pg_class
        where oid = to_regclass({{ sql_literal(this.render()) }})
    {% endset %}
    {{ return(first_row(question)) }}
{% endmacro %}

{#
    Put back what somebody altered of a view beside its SQL: its options go, and under another owner it is made again,
    which the owner of its schema may.
#}
{% macro put_back_owner_and_options(sql) %}
    {% set found = view_besides_its_sql() %}
    {% if not found['is_ours'] %}
        {% do drop_this_view() %}
        {% do run_ddl(this, 'create view ' ~ this ~ ' as ' ~ sql) %}
    {% elif found['options'] is not none %}
        {% do run_ddl(this, 'alter view ' ~ this ~ ' reset (' ~ found['options'] ~ ')') %}
    {% endif %}
{% endmacro %}

{#
    Whether `create or replace view` accepts the new query: it may only add columns at the end, and change no type.
#}
{% macro replaceable(sql) %}
    {% set probe = model.name ~ '__probe' %}
    {% do run_statement("create temporary view " ~ probe ~ " as " ~ sql) %}
    {% set comparison %}
        select not exists (
            select attnum, attname, atttypid, atttypmod, attcollation from pg_attribute
            where attrelid = {{ sql_literal(this.render()) }}::regclass and attnum > 0
            except
            select attnum, attname, atttypid, atttypmod, attcollation from pg_attribute
            where attrelid = {{ sql_literal('pg_temp.' ~ probe) }}::regclass and attnum > 0
        ) as accepted
    {% endset %}
    {% set row = first_row(comparison) %}
    {% do run_statement("drop view " ~ probe) %}
    {{ return(row['accepted']) }}
{% endmacro %}

{#
    Whether every view over this one is a view of the project, which is created again behind it in the same build. The
    views of others are not dropped: PostgreSQL then refuses, and names them.
#}
{% macro only_own_views_depend_on_it() %}
    {% set own = ["''"] %}
    {% for node in graph.nodes.values() if node.config.materialized == 'stable_view' %}
        {% do own.append(sql_literal(node.schema ~ '.' ~ node.alias)) %}
    {% endfor %}
    {% set foreign_views %}
        with recursive dependent as (
            select distinct pg_rewrite.ev_class as oid
            from pg_depend
            inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
            where pg_depend.refobjid = {{ sql_literal(this.render()) }}::regclass and pg_rewrite.ev_class <> pg_depend.refobjid
            union
            select pg_rewrite.ev_class
            from dependent
            inner join pg_depend on pg_depend.refobjid = dependent.oid
            inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
            where pg_rewrite.ev_class <> pg_depend.refobjid
        )

        select count(*) as number
        from dependent
        inner join pg_class on dependent.oid = pg_class.oid
        where format('%s.%s', pg_class.relnamespace::regnamespace, pg_class.relname) not in ({{ own | join(', ') }})
    {% endset %}
    {{ return(first_row(foreign_views)['number'] | int == 0) }}
{% endmacro %}
