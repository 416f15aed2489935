{#
    Where a table's rows are stored when the warehouse is a Citus cluster (target citus). Each table declares it in its
    YAML, as meta.placement:

      distributed  spread over the workers by loan_id, so that what belongs to one loan is on one worker, and joins by
                   loan_id, and sums by loan, are done there
      reference    a copy on every node: dimensions, which every worker joins with
      coordinator  an ordinary table of the coordinator: small, or read by the run alone (the default)

    On any other target everything is an ordinary table, and these macros change no statement.
#}
{% macro is_citus() %}
    {{ return(target.name == 'citus') }}
{% endmacro %}

{#
    The column that rows are distributed by. One for all, so that all distributed tables are colocated.
#}
{% macro distribution_column() %}
    {{ return('loan_id') }}
{% endmacro %}

{#
    What a node of dbt's graph (a model, snapshot or source table) declares as its placement.

    placement_of(model) -> 'distributed'
#}
{% macro placement_of(node) %}
    {% set meta = node.config.meta or node.meta %}
    {% set placement = meta.get('placement', 'coordinator') %}
    {% if placement not in ('distributed', 'reference', 'coordinator') %}
        {{ exceptions.raise_compiler_error(
            "meta.placement of " ~ node.name ~ " is " ~ placement ~ ": expected distributed, reference or coordinator "
            ~ "(macros/citus/placement.sql)."
        ) }}
    {% endif %}
    {{ return(placement) }}
{% endmacro %}

{#
    Whether a table of this placement is spread over the workers on this target.
#}
{% macro is_spread(placement) %}
    {{ return(is_citus() and placement == 'distributed') }}
{% endmacro %}

{#
    The columns of a unique key where the table is stored. A key of a distributed table contains the distribution column,
    because each shard checks its own rows only.

    key_in_place(['payment_id'], 'distributed') -> ['payment_id'], and ['payment_id', 'loan_id'] on Citus
#}
{% macro key_in_place(keys, placement) %}
    {% set extra = [distribution_column()] if is_spread(placement) and distribution_column() not in keys else [] %}
    {{ return(keys + extra) }}
{% endmacro %}

{#
    A model's constraints where its table is stored: see key_in_place.
#}
{% macro constraints_in_place(constraints, placement) %}
    {% set result = [] %}
    {% for constraint in constraints %}
        {% if constraint.type | string in ('primary_key', 'unique') %}
            {% set columns = key_in_place(constraint.columns | list, placement) %}
            {% do result.append(dict(constraint, columns=columns)) %}
        {% else %}
            {% do result.append(constraint) %}
        {% endif %}
    {% endfor %}
    {{ return(result) }}
{% endmacro %}

{#
    The loan_id of the unknown loan: null, and the smallest number on Citus, whose distribution column is never null.
#}
{% macro unknown_loan_id() -%}
    {{ '(-9223372036854775808)' if is_citus() else 'null' }}::bigint
{%- endmacro %}
