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
    {{ return(first_row("
        select
            count(*) filter (where _is_new) as inserted,
            count(*) filter (where not _is_new and not is_removed) as updated,
            count(*) filter (where is_removed) as deleted
        from " ~ difference)) }}
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
