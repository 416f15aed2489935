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
    {% for copy in copies if node.has_news or copy_is_not_as(copy, present[copy]) %}
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

{#
    Raise unless every mart has taken in the landing tables' present state and all that its parents have: a build of a
    part of the project must not publish marts that disagree.
#}
{% macro assert_marts_are_complete() %}
    {% set names = [] %}
    {% set edges = [] %}
    {% for node in graph.nodes.values() if node.resource_type == 'model' and node.config.materialized == 'upsert' %}
        {% do names.append(sql_literal(node.name)) %}
        {% for parent_id in node.depends_on.nodes
                if parent_id in graph.nodes and graph.nodes[parent_id].config.materialized in ('upsert', 'snapshot') %}
            {% do edges.append("(" ~ sql_literal(graph.nodes[parent_id].name) ~ ", " ~ sql_literal(node.name) ~ ")") %}
        {% endfor %}
    {% endfor %}
    {% set behind = run_query("
        with edge (parent, child) as (values " ~ edges | join(', ') ~ "),

        mart (model_name) as (select unnest(array[" ~ names | join(', ') ~ "]))

        select edge.child || ' has not taken in what ' || edge.parent || ' has' as problem
        from edge
        inner join " ~ audit_schema() ~ ".model_states as parent on edge.parent = parent.model_name
        left join " ~ audit_schema() ~ ".model_states as child on edge.child = child.model_name
        where coalesce(child.run_id, 0) < parent.run_id
        union all
        select mart.model_name || ' has not taken in the last extraction'
        from mart
        left join " ~ audit_schema() ~ ".model_states as state on mart.model_name = state.model_name
        where coalesce(state.landing_run_id, -1) < " ~ landing_run_id() ~ "
    ") %}
    {% if behind.rows | length > 0 %}
        {{ exceptions.raise_compiler_error(
            "Not published: " ~ behind.columns[0].values() | join('; ') ~ ". The dashboards keep their last state; "
            ~ "dbt build (without --select) brings everything to one state."
        ) }}
    {% endif %}
{% endmacro %}

{#
    The columns that each published copy has, as a dictionary of lists; none: it is not there.
#}
{% macro columns_of_copies(copies) %}
    {% set found = {} %}
    {% for copy in copies %}
        {% do found.update({copy: []}) %}
    {% endfor %}
    {% for column in run_query("
        select relname::text as copy, attname::text as name
        from pg_attribute
        inner join pg_class on attrelid = pg_class.oid
        where relnamespace = to_regnamespace(" ~ sql_literal(schema_in_target('publish', target.name, target.schema) | trim) ~ ")
            and relkind = 'r' and attnum > 0 and not attisdropped
    ").rows if column['copy'] in found %}
        {% do found[column['copy']].append(column['name']) %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}

{% macro node_of_mart(mart_name) %}
    {{ return((graph.nodes.values() | selectattr('name', 'equalto', mart_name) | list)[0]) }}
{% endmacro %}

{#
    Whether a published copy with these columns lacks one that its mart has.
#}
{% macro copy_is_not_as(mart_name, present) %}
    {% set names = node_of_mart(mart_name).columns.values() | map(attribute='name') | list %}
    {{ return(names | reject('in', present) | list | length > 0) }}
{% endmacro %}

{#
    Bring one published copy to its mart's state. present: the columns that it has. Returns a dictionary: inserted,
    updated, deleted.
#}
{% macro publish_copy(mart_name, present, state) %}
    {% set node = node_of_mart(mart_name) %}
    {% set mart = node.relation_name %}
    {% set copy = published(mart_name) | trim %}
    {% set keys = node.config.unique_key %}
    {% set names = node.columns.values() | map(attribute='name') | list %}
    {% set difference = mart_name ~ '__unpublished' %}
    {% set by_key = node.config.get('log_changes') and state is not none %}

    {% if not present %}
        {% do run_statement("create table " ~ copy ~ " (like " ~ mart ~ " including all)") %}
        {% do run_statement("insert into " ~ copy ~ " select * from " ~ mart) %}
        {% do run_statement("analyze " ~ copy) %}
        {% set counts = first_row("select count(*) as inserted from " ~ copy) %}
        {{ return({'inserted': counts['inserted'] | int, 'updated': 0, 'deleted': 0}) }}
    {% endif %}
    {% for column in node.columns.values() if column.name not in present %}
        {% do run_statement("alter table " ~ copy ~ " add column " ~ column.name ~ " " ~ column.data_type) %}
    {% endfor %}
    {# A view may still read a column that the mart has no more; new rows come without it. #}
    {% for name in present if name not in names %}
        {% do run_statement("alter table " ~ copy ~ " alter column " ~ name ~ " drop not null") %}
    {% endfor %}

    {% set touched %}
        {% if by_key %}
            (select distinct {{ comma_list(keys) }} from {{ changes_of(mart_name) }} where _run_id > {{ state['run_id'] }})
        {% endif %}
    {% endset %}
    {% do run_statement("
        create temporary table " ~ difference ~ " on commit drop as
        select
            " ~ comma_list(names, 'mart') ~ ",
            false as is_removed,
            copy." ~ keys[0] ~ " is null as _is_new
        from " ~ mart ~ " as mart
        " ~ ("inner join " ~ touched ~ " as touched on " ~ keys_equal(keys, 'mart', 'touched') if by_key) ~ "
        left join " ~ copy ~ " as copy on " ~ keys_equal(keys, 'mart', 'copy') ~ "
        where copy." ~ keys[0] ~ " is null
            or (" ~ comma_list(names, 'copy') ~ ") is distinct from (" ~ comma_list(names, 'mart') ~ ")
        union all
        select " ~ comma_list(names, 'copy') ~ ", true, false
        from " ~ copy ~ " as copy
        " ~ ("inner join " ~ touched ~ " as touched on " ~ keys_equal(keys, 'copy', 'touched') if by_key) ~ "
        where not exists (select from " ~ mart ~ " as mart where " ~ keys_equal(keys, 'mart', 'copy') ~ ")
    ") %}
    {% set counts = count_difference(difference) %}
    {% if counts['inserted'] + counts['updated'] + counts['deleted'] > 0 %}
        {% do write_difference(copy, names, keys, difference) %}
    {% endif %}
    {{ return({'inserted': counts['inserted'] | int, 'updated': counts['updated'] | int,
               'deleted': counts['deleted'] | int}) }}
{% endmacro %}
