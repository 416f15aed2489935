{#
    The published copies of marts as they are now, as a dictionary by mart:
      columns   their names and types, as a dictionary; empty: there is no copy
      required  the names of those that every row must have
      wanted    the names and types of the mart
      rekeyed   whether the copy is kept by another key than its mart
      key       the name of the copy's primary key, none when it has none
      differs   whether the copy lacks a column of its mart, has one of another type, or is rekeyed
#}
{% macro state_of_copies(copies) %}
    {% set found = {} %}
    {% set names = [] %}
    {% for copy in copies %}
        {% do found.update({copy: {'columns': {}, 'wanted': {}, 'required': [], 'key': none, 'rekeyed': false,
            'differs': false}}) %}
        {% set relation, mart = published_relation(copy), node_of_mart(copy).relation_name %}
        {% do names.append("(" ~ [sql_literal(copy), sql_literal(relation), sql_literal(mart)] | join(', ') ~ ")") %}
    {% endfor %}
    {% set catalogue %}
        select
            mart.name as copy,
            relation.is_copy,
            pg_attribute.attname::text as name,
            format_type(pg_attribute.atttypid, pg_attribute.atttypmod) as data_type,
            pg_attribute.attnotnull and not pg_attribute.atthasdef as is_required
        from (values {{ names | join(', ') }}) as mart (name, copy, relation)
        cross join lateral (
            values (to_regclass(mart.copy), true), (to_regclass(mart.relation), false)
        ) as relation (oid, is_copy)
        inner join pg_attribute on relation.oid = pg_attribute.attrelid
        where pg_attribute.attnum > 0 and not pg_attribute.attisdropped
    {% endset %}
    {% for column in run_query(catalogue).rows %}
        {% do found[column['copy']]['columns' if column['is_copy'] else 'wanted'].update({column['name']: column['data_type']}) %}
        {% if column['is_copy'] and column['is_required'] %}
            {% do found[column['copy']].required.append(column['name']) %}
        {% endif %}
    {% endfor %}
    {% set primary_keys %}
        select
            mart.name as copy,
            pg_constraint.conname::text as name,
            string_agg(pg_attribute.attname, ' ' order by pg_attribute.attname) as columns
        from (values {{ names | join(', ') }}) as mart (name, copy, relation)
        inner join pg_constraint on to_regclass(mart.copy) = pg_constraint.conrelid and pg_constraint.contype = 'p'
        inner join pg_attribute
            on pg_constraint.conrelid = pg_attribute.attrelid and pg_attribute.attnum = any(pg_constraint.conkey)
        group by mart.name, pg_constraint.conname
    {% endset %}
    {% set keys = {} %}
    {% for key in run_query(primary_keys).rows %}
        {% do keys.update({key['copy']: key['columns'].split(' ')}) %}
        {% do found[key['copy']].update({'key': key['name']}) %}
    {% endfor %}
    {% for name, copy in found.items() if copy.columns and keys.get(name, []) | sort != node_of_mart(name).config.unique_key | sort %}
        {% do copy.update({'rekeyed': true, 'differs': true}) %}
    {% endfor %}
    {% for copy in found.values() %}
        {% for column, data_type in copy.wanted.items() if copy.columns.get(column) != data_type %}
            {% do copy.update({'differs': true}) %}
        {% endfor %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}

{#
    The node of a mart in the graph.
#}
{% macro node_of_mart(mart_name) %}
    {% set known = graph.setdefault('nodes_of_marts', {}) %}
    {% if mart_name not in known %}
        {% do known.update({mart_name: graph.nodes['model.' ~ project_name ~ '.' ~ mart_name]}) %}
    {% endif %}
    {{ return(known[mart_name]) }}
{% endmacro %}

{#
    Add the columns to copies that their marts have and they lack, before any row of them changes. A view may still read a
    column that the mart does not have (any more): it stays, and new rows come without it. A key that the mart no longer has goes.
    Returns whether anything was altered.
#}
{% macro add_columns_to_copies(copies, present) %}
    {% set altered = namespace(value=false) %}
    {% for copy in copies if present[copy].columns %}
        {% set actions = [] %}
        {% if present[copy].rekeyed and present[copy].key %}
            {% do actions.append('drop constraint ' ~ present[copy].key) %}
        {% endif %}
        {% for column, data_type in present[copy].wanted.items() if column not in present[copy].columns %}
            {% do actions.append('add column ' ~ column ~ ' ' ~ data_type) %}
        {% endfor %}
        {% for column in present[copy].required if column not in present[copy].wanted %}
            {% do actions.append('alter column ' ~ column ~ ' drop not null') %}
        {% endfor %}
        {% if actions %}
            {% set altered.value = true %}
            {% do run_ddl(published_relation(copy), 'alter table ' ~ published_relation(copy) ~ ' ' ~ actions | join(', ')) %}
        {% endif %}
    {% endfor %}
    {{ return(altered.value) }}
{% endmacro %}

{#
    Bring the columns of a copy to the types of its mart. Readers of the views over it wait until the transaction
    ends.
#}
{% macro retype_copy(copy, present) %}
    {% set actions = [] %}
    {% for column, data_type in present.wanted.items() if present.columns.get(column, data_type) != data_type %}
        {% do actions.append('alter column ' ~ column ~ ' type ' ~ data_type ~ ' using ' ~ column ~ '::' ~ data_type) %}
    {% endfor %}
    {% if not actions %}
        {{ return('') }}
    {% endif %}
    {% do alter_below_views(copy, actions) %}
{% endmacro %}

{#
    Bring one published copy to its mart's state. present: of state_of_copies(). since: the run of the last publication,
    when only the keys in the change log are to be compared; none compares every row. Returns a dictionary: inserted,
    updated, deleted.
#}
{% macro publish_copy(mart_name, present, since) %}
    {% set node = node_of_mart(mart_name) %}
    {% set mart = node.relation_name %}
    {% set copy = published_relation(mart_name) %}
    {% set keys = node.config.unique_key %}
    {% set names = node.columns.values() | map(attribute='name') | list %}
    {% set difference = mart_name ~ '__unpublished' %}

    {% if not present.columns %}
        {% do run_statement("create table " ~ copy ~ " (like " ~ mart ~ " including all)") %}
        {% do run_statement("insert into " ~ copy ~ " select * from " ~ mart) %}
        {% do run_statement("analyze " ~ copy) %}
        {% set counts = first_row("select count(*) as inserted from " ~ copy) %}
        {{ return({'inserted': counts['inserted'] | int, 'updated': 0, 'deleted': 0}) }}
    {% endif %}
    {% do retype_copy(copy, present) %}
    {% if present.rekeyed %}
        {# Rows of another grain cannot be matched. Readers see the old ones until the transaction ends. #}
        {% set counts = first_row("select count(*) as deleted from " ~ copy) %}
        {% do run_statement("delete from " ~ copy) %}
        {% do run_statement("insert into " ~ copy ~ " (" ~ comma_list(names) ~ ") select " ~ comma_list(names) ~ " from " ~ mart) %}
        {% do run_ddl(copy, "alter table " ~ copy ~ " add primary key (" ~ keys | join(', ') ~ ")") %}
        {% set inserted = first_row("select count(*) as inserted from " ~ copy) %}
        {{ return({'inserted': inserted['inserted'] | int, 'updated': 0, 'deleted': counts['deleted'] | int}) }}
    {% endif %}

    {% set touched %}
        {% if since is not none %}
            inner join (
                select distinct {{ comma_list(keys) }} from {{ changes_of(mart_name) }} where _run_id > {{ since }}
            ) as touched on
        {% endif %}
    {% endset %}
    {% set comparison %}
        create temporary table {{ difference }} on commit drop as
        select
            {{ comma_list(names, 'mart') }},
            false as is_removed,
            copy.{{ keys[0] }} is null as _is_new
        from {{ mart }} as mart
        {% if since is not none %}{{ touched }} {{ keys_equal(keys, 'mart', 'touched') }}{% endif %}
        left join {{ copy }} as copy on {{ keys_equal(keys, 'mart', 'copy') }}
        where copy.{{ keys[0] }} is null
            or ({{ comma_list(names, 'copy') }}) is distinct from ({{ comma_list(names, 'mart') }})
        union all
        select {{ comma_list(names, 'copy') }}, true, false
        from {{ copy }} as copy
        {% if since is not none %}{{ touched }} {{ keys_equal(keys, 'copy', 'touched') }}{% endif %}
        where not exists (select from {{ mart }} as mart where {{ keys_equal(keys, 'mart', 'copy') }})
    {% endset %}
    {% do run_statement(comparison) %}
    {% set counts = count_difference(difference) %}
    {% if counts['inserted'] + counts['updated'] + counts['deleted'] > 0 %}
        {% do write_difference(copy, names, keys, difference) %}
        {% do analyze_rewritten(copy, counts['inserted'] + counts['updated'] + counts['deleted']) %}
    {% endif %}
    {{ return({'inserted': counts['inserted'] | int, 'updated': counts['updated'] | int,
               'deleted': counts['deleted'] | int}) }}
{% endmacro %}
