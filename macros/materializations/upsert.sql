{#
    A table that is kept current by key, in place: never dropped, swapped or truncated, so that whoever reads it is never
    disturbed, and only rows that really differ are written.

    Config:
      unique_key     list of the key's columns (also the contract's primary key)
      log_changes    also write each changed row to changes.<model>: as it was (_sign -1) and as it became (+1).
                     Models that follow read there which groups or keys were touched, before and after.
      accumulate     list of measures: the increment's SQL gives amounts to add to the present row of the key
      vanish_when    with accumulate: the condition, on the summed row, under which it is removed ('payment_count = 0')

    The model's SQL asks increment(): none means that everything is to be computed, and the table is brought to that
    result by its difference. Otherwise the SQL gives the affected keys only, plus a boolean column is_removed for keys
    that have no row any more (not with accumulate).

    Everything, the model's state included, is one transaction: a failure leaves the last complete state.
#}
{% materialization upsert, adapter='postgres' %}
    {% set target_relation = this.incorporate(type='table') %}
    {% set keys = config.require('unique_key') %}
    {% set names = model.columns.values() | map(attribute='name') | list %}
    {% set accumulate = config.get('accumulate', []) %}
    {% set incoming = model.name ~ '__incoming' %}
    {% set difference = model.name ~ '__difference' %}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% set run_id = assert_run_is_ours() %}
    {% set node = node_state() %}
    {% set since = increment(node) %}
    {% set state = node.state %}
    {% set exists = node.exists %}
    {% set hash = definition_hash() %}
    {% set redefined = not exists or state is none or state['definition_hash'] != hash %}

    {% if redefined %}
        {# Raises dbt's own message when the SQL's columns are not the contract's. #}
        {% do get_assert_columns_equivalent(sql) %}
    {% endif %}
    {% if not exists %}
        {% do create_upsert_table(target_relation, names, sql) %}
        {% set counts = first_row("select count(*) as inserted, 0 as updated, 0 as deleted from " ~ this) %}
    {% elif since and not node.has_news %}
        {% set counts = {'inserted': 0, 'updated': 0, 'deleted': 0} %}
    {% else %}
        {% if redefined %}
            {% do take_home(this, placement_of(model)) %}
            {% do alter_upsert_table(names) %}
            {% if config.get('log_changes') and not relation_exists(changes_of(model.name) | trim) %}
                {% do create_change_log(target_relation) %}
            {% endif %}
        {% endif %}
        {% do run_statement("create temporary table " ~ incoming ~ " on commit drop as " ~ incoming_sql(since, names, keys, accumulate)) %}
        {% do run_statement("analyze " ~ incoming) %}
        {% set present = rows_to_compare(this, model.name ~ '__present', placement_of(model)) %}
        {% do fetch_rows(this, present, placement_of(model), keys,
            "select " ~ comma_list(keys) ~ " from " ~ incoming if since else none) %}
        {% do run_statement("create temporary table " ~ difference ~ " on commit drop as "
            ~ difference_sql(since, names, keys, incoming, present)) %}
        {% set counts = count_difference(difference) %}
        {% if counts['inserted'] + counts['updated'] + counts['deleted'] > 0 %}
            {% do run_statement("analyze " ~ difference) %}
            {% do apply_difference(target_relation, names, keys, difference, run_id, present) %}
        {% endif %}
    {% endif %}
    {% if redefined %}
        {% do create_upsert_indexes() %}
        {% do apply_grants(target_relation, config.get('grants'), should_revoke=exists) %}
        {% do persist_docs(target_relation, model) %}
        {% do place_table(target_relation, placement_of(model)) %}
    {% endif %}

    {% call statement('main') %}
        {{ record_rows(run_id, counts['inserted'], counts['updated'], counts['deleted']) }};
        {{ save_model_state(model.name, run_id, hash, landing_run=node.landing_run_id, made_anew=not exists) }};
    {% endcall %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{#
    on clause: the keys of two aliases are equal.
#}
{% macro keys_equal(keys, left, right) -%}
    {%- for key in keys -%}
        {{ left }}.{{ key }} = {{ right }}.{{ key }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{% macro incoming_sql(since, names, keys, accumulate) %}
    {% if since and accumulate %}
        with delta as (
            {{ sql }}
        ),

        summed as (
            select
                {% for name in names %}
                {% if name in accumulate %}coalesce(present.{{ name }}, 0) + delta.{{ name }} as {{ name }}{% else %}delta.{{ name }}{% endif %}{{ ',' if not loop.last }}
                {% endfor %}
            from delta
            left join {{ this }} as present on {{ keys_equal(keys, 'delta', 'present') }}
        )

        select *, {{ config.require('vanish_when') }} as is_removed from summed
    {% elif since %}
        {{ sql }}
    {% else %}
        select {{ comma_list(names) }}, false as is_removed from ({{ sql }}) as computed
    {% endif %}
{% endmacro %}

{% macro difference_sql(since, names, keys, incoming, present_rows) %}
    select
        {{ comma_list(names, 'incoming') }},
        coalesce(incoming.is_removed, false) as is_removed,
        present.{{ keys[0] }} is null as _is_new
    from {{ incoming }} as incoming
    left join {{ present_rows }} as present on {{ keys_equal(keys, 'incoming', 'present') }}
    where case
        when coalesce(incoming.is_removed, false) then present.{{ keys[0] }} is not null
        else present.{{ keys[0] }} is null
            or ({{ comma_list(names, 'present') }}) is distinct from ({{ comma_list(names, 'incoming') }})
    end
    {% if not since %}
    union all
    select {{ comma_list(names, 'present') }}, true, false
    from {{ present_rows }} as present
    where not exists (select from {{ incoming }} as incoming where {{ keys_equal(keys, 'incoming', 'present') }})
    {% endif %}
{% endmacro %}

{% macro apply_difference(target_relation, names, keys, difference, run_id, present_rows) %}
    {% if config.get('log_changes') %}
        {% do prune_change_log() %}
        {% do run_statement("
            insert into " ~ changes_of(model.name) ~ " (" ~ comma_list(names) ~ ", _run_id, _sign)
            select " ~ comma_list(names, 'present') ~ ", " ~ run_id ~ ", -1
            from " ~ present_rows ~ " as present
            inner join " ~ difference ~ " as changed on " ~ keys_equal(keys, 'changed', 'present') ~ "
            where not changed._is_new
            union all
            select " ~ comma_list(names, 'changed') ~ ", " ~ run_id ~ ", 1
            from " ~ difference ~ " as changed
            where not changed.is_removed
        ") %}
        {# It is small, and read by the models that follow with _run_id > the last one. #}
        {% do run_statement("analyze " ~ changes_of(model.name)) %}
    {% endif %}
    {% do write_difference(target_relation, names, keys, difference, placement_of(model)) %}
{% endmacro %}

{#
    How many rows a table of differences inserts, updates and deletes.
#}
{% macro count_difference(difference) %}
    {{ return(first_row("
        select
            count(*) filter (where _is_new) as inserted,
            count(*) filter (where not _is_new and not is_removed) as updated,
            count(*) filter (where is_removed) as deleted
        from " ~ difference)) }}
{% endmacro %}

{#
    Write a table of differences (all columns, and is_removed) to a table by key.
#}
{% macro write_difference(target_relation, names, keys, difference, placement='coordinator') %}
    {% set assignments = [] %}
    {% set unique_key = key_in_place(keys, placement) %}
    {% for name in names if name not in unique_key %}
        {% do assignments.append(name ~ ' = excluded.' ~ name) %}
    {% endfor %}
    {% do run_statement("
        delete from " ~ target_relation ~ " as present
        using (select * from " ~ difference ~ ") as changed
        where changed.is_removed and " ~ keys_equal(keys, 'changed', 'present')
    ) %}
    {% do delete_moved(target_relation, difference, keys, placement) %}
    {% do run_statement("
        insert into " ~ target_relation ~ " (" ~ comma_list(names) ~ ")
        select " ~ comma_list(names) ~ " from " ~ difference ~ " where not is_removed
        on conflict (" ~ unique_key | join(', ') ~ ") do " ~ ('update set ' ~ assignments | join(', ') if assignments else 'nothing')
    ) %}
{% endmacro %}

{#
    The first build: the rows, as the contract's types, then its constraints, then indexes, which is faster than the other
    way. `create table as` reads with several processes, which `insert` never does; the default price of a row that passes
    from one to the other keeps large results from it (5 million payments: 11 s against 21 s).
#}
{% macro create_upsert_table(target_relation, names, sql) %}
    {% set placement = placement_of(model) %}
    {% set typed = [] %}
    {% for column in model.columns.values() %}
        {% do typed.append(column.name ~ '::' ~ column.data_type ~ ' as ' ~ column.name) %}
    {% endfor %}
    {% set rows = "select " ~ typed | join(', ') ~ " from (" ~ sql ~ ") as computed" %}
    {% do run_statement("set local parallel_tuple_cost = 0.01") %}
    {% do run_statement("create table " ~ target_relation ~ " as " ~ rows ~ (" with no data" if is_spread(placement))) %}
    {% if is_spread(placement) %}
        {% do place_empty_table(target_relation, placement) %}
        {% do run_statement("insert into " ~ target_relation ~ " (" ~ comma_list(names) ~ ") " ~ rows) %}
    {% endif %}
    {% do run_statement("reset parallel_tuple_cost") %}
    {% set actions = column_constraints() %}
    {% if actions %}
        {% do run_statement("alter table " ~ target_relation ~ " " ~ actions | join(', ')) %}
    {% endif %}
    {% for constraint in adapter.render_raw_model_constraints(raw_constraints=constraints_in_place(model.constraints, placement)) %}
        {% do run_statement("alter table " ~ target_relation ~ " add " ~ constraint) %}
    {% endfor %}
    {% do run_statement("analyze " ~ target_relation) %}
    {% if config.get('log_changes') %}
        {% do create_change_log(target_relation) %}
    {% endif %}
{% endmacro %}

{#
    What the contract says of single columns, as actions of `alter table` (a list), for one pass over the rows.
#}
{% macro column_constraints() %}
    {% set actions = [] %}
    {% for column in model.columns.values() %}
        {% for constraint in column.constraints %}
            {% if constraint.type | string != 'not_null' %}
                {{ exceptions.raise_compiler_error(
                    "Column " ~ model.name ~ "." ~ column.name ~ " has a constraint of type " ~ constraint.type ~ ": an upsert "
                    ~ "model takes not_null on a column; others go below the model's own constraints."
                ) }}
            {% endif %}
            {% do actions.append('alter column ' ~ column.name ~ ' set not null') %}
        {% endfor %}
    {% endfor %}
    {{ return(actions) }}
{% endmacro %}

{#
    An empty change log for a table.
#}
{% macro create_change_log(target_relation) %}
    {% set schema = schema_in_target('changes', target.name, target.schema) | trim %}
    {# Only where it is missing: Citus takes no statement on a schema after one that wrote to several shards. #}
    {% if first_row("select to_regnamespace(" ~ sql_literal(schema) ~ ") is null as missing")['missing'] %}
        {% do run_statement("create schema " ~ schema) %}
    {% endif %}
    {% do run_statement("
        drop table if exists " ~ changes_of(model.name) ~ ";
        create table " ~ changes_of(model.name) ~ " (like " ~ target_relation ~ ");
        alter table " ~ changes_of(model.name) ~ "
            add column _run_id bigint not null, add column _sign smallint not null;
        create index on " ~ changes_of(model.name) ~ " (_run_id)
    ") %}
{% endmacro %}

{#
    Bring the columns of the table (and of its change log) to those of the contract. The rows follow by difference.
#}
{% macro alter_upsert_table(names) %}
    {% set logged = [this.render()] %}
    {% if config.get('log_changes') and relation_exists(changes_of(model.name) | trim) %}
        {% do logged.append(changes_of(model.name)) %}
    {% endif %}
    {% set present = {} %}
    {% for column in run_query("select attname::text as name, format_type(atttypid, atttypmod) as data_type, attnotnull
            from pg_attribute where attrelid = " ~ sql_literal(this.render()) ~ "::regclass and attnum > 0
            and not attisdropped").rows %}
        {% do present.update({column['name']: column['data_type']}) %}
    {% endfor %}
    {% for table in logged %}
        {% for column in model.columns.values() %}
            {% if column.name not in present %}
                {% do run_statement("alter table " ~ table ~ " add column " ~ column.name ~ " " ~ column.data_type) %}
            {% elif first_row("select format_type(" ~ sql_literal(column.data_type.split('(')[0]) ~ "::regtype, null) <> "
                    ~ sql_literal(present[column.name].split('(')[0]) ~ " as differs")['differs'] %}
                {% do run_statement("alter table " ~ table ~ " alter column " ~ column.name ~ " type " ~ column.data_type
                    ~ " using " ~ column.name ~ "::" ~ column.data_type) %}
            {% endif %}
        {% endfor %}
        {% for name in present if name not in names %}
            {% do run_statement("alter table " ~ table ~ " drop column " ~ name) %}
        {% endfor %}
    {% endfor %}
{% endmacro %}

{% macro create_upsert_indexes() %}
    {% for index in config.get('indexes', []) %}
        {% do run_statement("create " ~ ('unique ' if index.unique) ~ "index if not exists "
            ~ (index.name or model.name ~ '_' ~ (index.columns | join('_') | replace(' ', '_')) ~ '_idx') ~ " on " ~ this
            ~ " (" ~ index.columns | join(', ') ~ ")"
            ~ (" include (" ~ index.include | join(', ') ~ ")" if index.include)) %}
    {% endfor %}
{% endmacro %}

{#
    Change-log rows that every follower has taken in: those up to the last published run, which depends on all of them.
#}
{% macro prune_change_log() %}
    {% do run_statement("delete from " ~ changes_of(model.name) ~ " where _run_id <= (
        select run_id from " ~ audit_schema() ~ ".model_states where model_name = 'published_state')") %}
{% endmacro %}
