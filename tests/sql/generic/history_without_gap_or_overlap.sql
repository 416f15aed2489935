{#
    The versions of an entity follow each other without overlap, at most one is current, and each is longer than nothing.
    A gap is allowed only where the entity was deleted for a while, so a gap is not looked for here.

    Without it a fact could find two versions at one time, and count twice.
#}
{% test history_without_gap_or_overlap(model, entity_id) %}
    with versions as (
        select
            {{ entity_id }} as entity_id,
            valid_from,
            valid_to,
            is_current,
            lead(valid_from) over (partition by {{ entity_id }} order by valid_from) as next_valid_from,
            count(*) filter (where is_current) over (partition by {{ entity_id }}) as current_count
        from {{ model }}
    )

    select *
    from versions
    where valid_from >= valid_to
        or valid_to > next_valid_from
        or current_count > 1
        or is_current <> (valid_to = timestamptz '9999-12-31 00:00+00')
{% endtest %}
