{#
    dbt's snapshot, but skipped when no landing row has changed since it last finished: then there is nothing to compare.
    When its definition changed, the current versions follow the new rules in place: a new rule is no change of a customer.
#}
{% materialization snapshot, adapter='postgres' %}
    {% set node = node_state() %}
    {% set since = increment() %}
    {% if node.exists and (not reads_everything() or (since and not node.has_changes)) %}
        {% do store_raw_result('main', message='unchanged', code='unchanged', rows_affected='0') %}
        {{ return({'relations': [this.incorporate(type='table')]}) }}
    {% endif %}
    {% set noted = node.state['stored_definition'] if node.state is not none else none %}
    {% set is_suspect = node.exists and (noted is none or not node.is_as_made or var('reconcile')) %}
    {% set removed = put_history_right() if is_suspect else 0 %}
    {% set corrected = correct_current_versions(node.state['landing_run_id']) if node.exists and node.state is not none and not since else 0 %}
    {# For the post-hook, which saves the state. #}
    {% do model.update({'rebuilt': corrected + removed > 0 or not node.exists, 'saved_hash': node.definition_hash}) %}
    {{ return(dbt.materialization_snapshot_default()) }}
{% endmaterialization %}

{#
    Bring a history that somebody altered back to what dbt can write to: nothing in it is required, and no rule of
    others keeps a version out. A version that is there twice is removed once: pg_restore leaves such rows where no
    unique index refuses them, as in the histories of earlier versions of this project. Returns how many rows were
    removed.

    Rows of one version (dbt_scd_id) count as the same when they differ in nothing but their end: of these the one that
    ends first stays, since a version that was seen to end has ended. Of any others it is not known which is true: they
    are refused, and nothing is removed.
#}
{% macro put_history_right() %}
    {% set found = first_row(state_of_history()) %}
    {% if found['missing'] %}
        {{ exceptions.raise_compiler_error(
            this ~ " has no column " ~ found['missing'] ~ ", without which its versions are not known. Nothing was "
            ~ "written. Put the history back from a dump (make restore), or, where it may begin anew, drop the table; "
            ~ "then run again."
        ) }}
    {% endif %}
    {% if found['actions'] %}
        {% do run_ddl(this, "alter table " ~ this ~ " " ~ found['actions']) %}
    {% endif %}
    {% if found['former_indexes'] %}
        {% do run_ddl(this, found['former_indexes']) %}
    {% endif %}
    {% if found['is_unique'] %}
        {{ return(0) }}
    {% endif %}
    {% set others %}
        select
            count(*) as number,
            (array_agg(dbt_scd_id))[1] as example
        from (
            select dbt_scd_id
            from {{ this }}
            group by dbt_scd_id
            having count(distinct row({{ found['compared'] }})::text) > 1
        ) as ambiguous
    {% endset %}
    {% set ambiguous = first_row(others) %}
    {% if ambiguous['number'] | int > 0 %}
        {{ exceptions.raise_compiler_error(
            this ~ " has " ~ ambiguous['number'] ~ " versions more than once, with different values. Nothing was "
            ~ "written. Leave one row of each (select * from " ~ this ~ " where dbt_scd_id = '" ~ ambiguous['example']
            ~ "'), or put the history back from a dump (make restore); then run again."
        ) }}
    {% endif %}
    {% set key = config.get('unique_key') %}
    {% set removal %}
        with removed as (
            delete from {{ this }} as version
            using (
                select
                    {{ key }},
                    ctid as place,
                    row_number() over (partition by {{ key }}, dbt_scd_id order by dbt_valid_to, ctid) as number
                from {{ this }}
            ) as numbered
            where version.{{ key }} = numbered.{{ key }} and version.ctid = numbered.place and numbered.number > 1
            returning 1
        )

        select count(*) as rows_removed from removed
    {% endset %}
    {% set removed = first_row(removal)['rows_removed'] | int %}
    {% if removed > 0 %}
        {% do log(this ~ ' had ' ~ removed ~ ' rows of versions that were there already: removed.', info=true) %}
    {% endif %}
    {{ return(removed) }}
{% endmacro %}

{#
    A query of one row about the present history:
      missing         the columns that it lacks and that no run can fill, as a text
      compared        the columns that rows of one version have in common, as a text: all but the end of the version
      actions         of `alter table`, which lift what keeps rows out: constraints, and columns that are required
      former_indexes  statements: the indexes that go, unique ones but that of the versions, and that one where it is
                      made otherwise
      is_unique       whether a valid unique index says that a version is there once
#}
{% macro state_of_history() %}
    {% set oid = sql_literal(this.render()) ~ '::regclass' %}
    {% set own = model.name ~ '_dbt_scd_id_idx' %}
    with present as (
        select attname, quote_ident(attname) as name, attnotnull and attidentity = '' as is_required
        from pg_attribute
        where attrelid = {{ oid }} and attnum > 0 and not attisdropped
    ),

    constraints as (
        select conname from pg_constraint where conrelid = {{ oid }} and contype in ('p', 'u', 'c', 'f', 'x')
    ),

    indexes as (
        select
            cls.oid::regclass::text as name,
            cls.relname = '{{ own }}' and idx.indisunique and idx.indisvalid
                and idx.indpred is null and idx.indexprs is null
                and (
                    select string_agg(att.attname, ', ' order by array_position(idx.indkey::smallint[], att.attnum))
                    from pg_attribute as att
                    where att.attrelid = idx.indrelid and att.attnum = any(idx.indkey)
                ) = {{ sql_literal(key_in_place(['dbt_scd_id'], placement_of(model)) | join(', ')) }} as is_own
        from pg_index as idx
        inner join pg_class as cls on idx.indexrelid = cls.oid
        where idx.indrelid = {{ oid }}
            and (idx.indisunique or cls.relname = '{{ own }}')
            and not exists (select from pg_constraint where conindid = idx.indexrelid)
    )

    select
        (
            select string_agg(name, ', ')
            from unnest(array[
                {{ sql_literal(config.get('unique_key')) }},
                'dbt_scd_id', 'dbt_updated_at', 'dbt_valid_from', 'dbt_valid_to'
            ]) as needed (name)
            where name not in (select attname from present)
        ) as missing,
        (select string_agg(name, ', ' order by name) from present where attname <> 'dbt_valid_to') as compared,
        (
            select string_agg(action, ', ' order by place)
            from (
                select 1 as place, format('drop constraint %I', conname) as action from constraints
                union all
                select 2, format('alter column %s drop not null', name) from present where is_required
            ) as lifted
        ) as actions,
        (select string_agg('drop index ' || name, '; ') from indexes where not is_own) as former_indexes,
        coalesce((select bool_or(is_own) from indexes), false) as is_unique
{% endmacro %}

{#
    Bring the current versions of rows that the snapshot has already taken in to what its query makes of them now.
    Versions that ended stay as they were seen. Returns how many rows changed.
#}
{% macro correct_current_versions(landing_run_id) %}
    {% set key = config.get('unique_key') %}
    {% set source = graph.nodes[model.depends_on.nodes[0]].relation_name %}
    {% for column in run_query(differing_columns(this.render(), source)).rows if column['wanted'] is not none %}
        {% if column['present'] is none %}
            {% do run_ddl(this, "alter table " ~ this ~ " add column " ~ column['name'] ~ " " ~ column['wanted']) %}
        {% elif column['present'] != column['wanted'] %}
            {% do run_ddl(this, "alter table " ~ this ~ " alter column " ~ column['name'] ~ " type " ~ column['wanted']
                ~ " using " ~ column['name'] ~ "::" ~ column['wanted']) %}
        {% endif %}
    {% endfor %}
    {% set names = [] %}
    {% for column in adapter.get_columns_in_relation(api.Relation.create(
            database=model.database, schema=source.split('.')[-2].strip('"'), identifier=source.split('.')[-1].strip('"')))
            if column.name not in (key, config.get('updated_at'), '_run_id') %}
        {% do names.append(column.name) %}
    {% endfor %}
    {% set assignments = [] %}
    {% for name in names %}
        {% do assignments.append(name ~ ' = source.' ~ name) %}
    {% endfor %}
    {% set correction %}
        with corrected as (
            update {{ this }} as version
            set {{ assignments | join(', ') }}
            from {{ source }} as source
            where source.{{ key }} = version.{{ key }}
                and source._run_id <= {{ landing_run_id }}
                and version.dbt_valid_to = {{ config.get('dbt_valid_to_current') }}
                and ({{ comma_list(names, 'version') }}) is distinct from ({{ comma_list(names, 'source') }})
            returning 1
        )

        select count(*) as corrected from corrected
    {% endset %}
    {{ return(first_row(correction)['corrected'] | int) }}
{% endmacro %}
