{#
    Surrogate keys of the versions of loans, whose ids are any bigint. A version whose loan_id leaves room has the key
    that version_sk would give: loan_id * 1000000 + number. The others (account numbers of more than 12 digits, versions
    beyond versions_per_key()) are numbered downwards from loan_sk_floor(), in the order in which they came into the
    history. No two keys can be equal, and since nothing in the history ever changes its place, a full computation gives
    each version the number that it got when it came.
#}

{#
    Whether a version's key follows from its loan_id, as a condition.

    loan_id, version_number: SQL expressions.
#}
{% macro has_readable_loan_sk(loan_id, version_number) -%}
    ({{ has_room_for_versions(loan_id) }} and {{ version_number }} <= {{ versions_per_key() }})
{%- endmacro %}

{#
    The part of it that an index answers. A loan_id below the lower end would run into the numbered keys.
#}
{% macro has_room_for_versions(loan_id) -%}
    {{ loan_id }} between -1000000000000 and 9223372036853
{%- endmacro %}

{#
    The key above the first numbered one.
#}
{% macro loan_sk_floor() -%}
    (-1000000000000000000)
{%- endmacro %}

{#
    The query that numbers the versions that have no readable key: loan_id, dbt_valid_from, loan_sk.

    history: the snapshot of the loans. dimension: dim_loan, in which versions that are there already have their key.
    since: what increment() returned; without an increment all versions, whatever the dimension has.
#}
{% macro numbered_loan_versions(history, dimension, since) -%}
    select
        versions.loan_id,
        versions.dbt_valid_from,
        {% if since -%}
        coalesce(
            present.loan_sk,
            least({{ loan_sk_floor() }}, (select min(loan_sk) from {{ dimension }}))
            - row_number() over (
                partition by present.loan_sk is null
                order by versions._run_id, versions.loan_id, versions.dbt_valid_from
            )
        ) as loan_sk
        {%- else -%}
        {{ loan_sk_floor() }} - row_number() over (
            order by versions._run_id, versions.loan_id, versions.dbt_valid_from
        ) as loan_sk
        {%- endif %}
    from (
        {% if since -%}
        {{ numbered_versions(history, 'loan_id', since) }}
        {%- else -%}
        select
            *,
            row_number() over (partition by loan_id order by dbt_valid_from) as version_number
        from {{ history }}
        where
            not ({{ has_room_for_versions('loan_id') }})
            or loan_id in (
                select loan_id from {{ history }}
                group by loan_id
                having count(*) > {{ versions_per_key() }}
            )
        {%- endif %}
    ) as versions
    {% if since -%}
    left join {{ dimension }} as present
        on versions.loan_id = present.loan_id and present.valid_from = {{ start_of_version('versions') }}
    {% endif -%}
    where not versions.is_deleted and not {{ has_readable_loan_sk('versions.loan_id', 'versions.version_number') }}
{%- endmacro %}
