{#
    What type 2 dimensions share: the versions of a snapshot, numbered, and when each is valid.
#}

{#
    The query of the versions of the entities that changed (all of them without an increment), with version_number.

    snapshot: its relation. entity_id: its key. since: what increment() returned.
#}
{% macro numbered_versions(snapshot, entity_id, since) -%}
    select
        *,
        row_number() over (partition by {{ entity_id }} order by dbt_valid_from) as version_number
    from {{ snapshot }}
    {% if since %}
    where
        {{ entity_id }} in (
            select changed.{{ entity_id }} from {{ snapshot }} as changed
            where changed._run_id > {{ since.landing_run_id }}
        )
    {% endif %}
{%- endmacro %}

{#
    The columns valid_from, valid_to and is_current of a version. What happened before the first version seen belongs to it.

    relation_alias: of the numbered versions, where the query reads others too.
#}
{% macro validity_of_version(relation_alias=none) -%}
    {%- set prefix = relation_alias ~ '.' if relation_alias else '' -%}
    {{ start_of_version(relation_alias) }} as valid_from,
        {{ prefix }}dbt_valid_to as valid_to,
        {{ prefix }}dbt_valid_to = {{ end_of_history() }} as is_current
{%- endmacro %}

{#
    When a version begins, as an expression: valid_from.
#}
{% macro start_of_version(relation_alias=none) -%}
    {%- set prefix = relation_alias ~ '.' if relation_alias else '' -%}
    case
            when {{ prefix }}version_number = 1 then {{ start_of_history() }} else {{ prefix }}dbt_valid_from
        end
{%- endmacro %}

{#
    The query of the versions of a type 2 dimension that changed, each with touched_from: from when on what refers to it
    by time may be another row. Of a version that was there before and ends at another time now, that is the time between;
    of any other, all of its time.

    dimension: its name. entity_id, version_sk: its keys. since: what increment() returned.
#}
{% macro changed_validity(dimension, entity_id, version_sk, since) -%}
    select
        {{ entity_id }},
        case
            when sum(_sign) = 0 and min(valid_from) = max(valid_from) then min(valid_to)
            else min(valid_from)
        end as touched_from
    from {{ changes_of(dimension) }}
    where _run_id > {{ since.run_id }}
    group by {{ entity_id }}, {{ version_sk }}
{%- endmacro %}

{#
    Before everything that is recorded, and after it.
#}
{% macro start_of_history() -%}
    {{ return("timestamptz '1900-01-01 00:00+00'") }}
{%- endmacro %}

{% macro end_of_history() -%}
    {{ return("timestamptz '9999-12-31 00:00+00'") }}
{%- endmacro %}
