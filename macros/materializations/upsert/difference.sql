{#
    The query of the rows by which the table differs from what was computed: all columns, is_removed and _is_new.
#}
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

{#
    How many rows a table of differences inserts, updates and deletes.
#}
{% macro count_difference(difference) %}
    {% set question %}
        select
            count(*) filter (where _is_new) as inserted,
            count(*) filter (where not _is_new and not is_removed) as updated,
            count(*) filter (where is_removed) as deleted
        from {{ difference }}
    {% endset %}
    {{ return(first_row(question)) }}
{% endmacro %}

{#
    Write a difference to the table, and to its change log where it has one.
#}
{% macro apply_difference(target_relation, names, keys, difference, run_id, present_rows) %}
    {% if config.get('log_changes') %}
        {% do prune_change_log() %}
        {% set entries %}
            insert into {{ changes_of(model.name) }} ({{ comma_list(names) }}, _run_id, _sign)
            select {{ comma_list(names, 'present') }}, {{ run_id }}, -1
            from {{ present_rows }} as present
            inner join {{ difference }} as changed on {{ keys_equal(keys, 'changed', 'present') }}
            where not changed._is_new
            union all
            select {{ comma_list(names, 'changed') }}, {{ run_id }}, 1
            from {{ difference }} as changed
            where not changed.is_removed
        {% endset %}
        {% do run_statement(entries) %}
        {# It is small, and read by the models that follow with _run_id > the last one. #}
        {% do analyze_small_sample(changes_of(model.name)) %}
    {% endif %}
    {% do write_difference(target_relation, names, keys, difference, placement_of(model)) %}
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
    {% set deletion %}
        delete from {{ target_relation }} as present
        using (select * from {{ difference }}) as changed
        where changed.is_removed and {{ keys_equal(keys, 'changed', 'present') }}
    {% endset %}
    {% do run_statement(deletion) %}
    {% do delete_moved(target_relation, difference, keys, placement) %}
    {% set insertion %}
        insert into {{ target_relation }} ({{ comma_list(names) }})
        select {{ comma_list(names) }} from {{ difference }} where not is_removed
        on conflict ({{ unique_key | join(', ') }}) do
        {% if assignments %}
            update set {{ assignments | join(', ') }}
        {% else %}
            nothing
        {% endif %}
    {% endset %}
    {% do run_statement(insertion) %}
{% endmacro %}
