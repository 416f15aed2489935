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
