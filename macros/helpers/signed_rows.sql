{#
    The query of what an accumulating model sums up: rows of its parent with _sign. In an increment those of the parent's
    change log (-1 as they were, +1 as they became), so that the cost follows the change; else all rows, each +1.

    parent: the name of a model with log_changes. since: what increment() returned.
#}
{% macro signed_rows(parent, since) -%}
    {% if since -%}
    select * from {{ changes_of(parent) }}
    where _run_id > {{ since.run_id }}
    {%- else -%}
    select
        *,
        1 as _sign
    from {{ ref(parent) }}
    {%- endif %}
{%- endmacro %}
