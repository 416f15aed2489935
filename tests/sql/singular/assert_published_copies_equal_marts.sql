-- What the dashboard views read is what the marts hold: each published copy equals its mart, row by row. A copy that
-- was changed by hand, or missed a change, would be shown until its row changes again. It runs behind published_state
-- and reads complete tables, so it looks only when all data is tested (dbt test, and the nightly run, which repairs it
-- before). Marts that dbt run has brought further than what is published are to differ.
-- depends_on: {{ ref('published_state') }}
with differences as (
    select
        null::text as copy_name,
        null::jsonb as only_in_mart,
        null::jsonb as only_in_copy
    where false
    {% if execute and tests_look_at_everything() %}
    {% for copy in node_of_mart('published_state').config.copies %}
    {% set mart = node_of_mart(copy) %}
    {% set names = mart.columns.values() | map(attribute='name') | list %}
    union all
    select
        '{{ copy }}' as copy_name,
        to_jsonb(mart) as only_in_mart,
        to_jsonb(copy) as only_in_copy
    from {{ mart.relation_name }} as mart
    full outer join {{ published_relation(copy) }} as copy on {{ keys_equal(mart.config.unique_key, 'mart', 'copy') }}
    where ({{ comma_list(names, 'mart') }}) is distinct from ({{ comma_list(names, 'copy') }})
        and not exists (
            select from {{ audit_schema() }}.model_states as mart_state
            inner join {{ audit_schema() }}.model_states as published
                on published.model_name = 'published_state' and mart_state.run_id > published.run_id
            where mart_state.model_name = '{{ copy }}'
        )
    {% endfor %}
    {% endif %}
)

select * from differences
