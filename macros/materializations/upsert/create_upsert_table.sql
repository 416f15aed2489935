{#
    The first build: the rows, as the contract's types, then its constraints, then indexes, which is faster than the other
    way. `create table as` reads with several processes, which `insert` never does; the default price of a row that passes
    from one to the other keeps large results from it (5 million payments: 11 s against 21 s).
#}
{% macro create_upsert_table(target_relation, names, sql) %}
    {% set placement = placement_of(model) %}
    {% set typed = [] %}
    {% for column in model.columns.values() %}
        {% do typed.append(column.name ~ '::' ~ column.data_type ~ ' as ' ~ column.name) %}
    {% endfor %}
    {% set rows = "select " ~ typed | join(', ') ~ " from (" ~ complete_rows(names, sql) ~ ") as computed" %}
    {% do run_statement("set local parallel_tuple_cost = 0.01") %}
    {% do run_statement("create table " ~ target_relation ~ " as " ~ rows ~ (" with no data" if is_spread(placement))) %}
    {% if is_spread(placement) %}
        {% do place_empty_table(target_relation, placement) %}
        {% do run_statement("insert into " ~ target_relation ~ " (" ~ comma_list(names) ~ ") " ~ rows) %}
    {% endif %}
    {% do run_statement("reset parallel_tuple_cost") %}
    {% set actions = column_constraints() %}
    {% if actions %}
        {% do run_statement("alter table " ~ target_relation ~ " " ~ actions | join(', ')) %}
    {% endif %}
    {% for constraint in adapter.render_raw_model_constraints(raw_constraints=constraints_in_place(model.constraints, placement)) %}
        {% do run_statement("alter table " ~ target_relation ~ " add " ~ constraint) %}
    {% endfor %}
    {% do run_statement("analyze " ~ target_relation) %}
    {% if config.get('log_changes') %}
        {% do create_change_log(target_relation) %}
    {% endif %}
{% endmacro %}

{#
    What the contract says of single columns, as actions of `alter table` (a list), for one pass over the rows.
#}
{% macro column_constraints() %}
    {% set actions = [] %}
    {% for column in model.columns.values() %}
        {% for constraint in column.constraints %}
            {% if constraint.type | string != 'not_null' %}
                {{ exceptions.raise_compiler_error(
                    "Column " ~ model.name ~ "." ~ column.name ~ " has a constraint of type " ~ constraint.type ~ ": an upsert "
                    ~ "model takes not_null on a column; others go below the model's own constraints."
                ) }}
            {% endif %}
            {% do actions.append('alter column ' ~ column.name ~ ' set not null') %}
        {% endfor %}
    {% endfor %}
    {{ return(actions) }}
{% endmacro %}

{#
    Create the indexes of a model's config that are not there yet, on its table or on a copy of it. key: of the config.
#}
{% macro create_upsert_indexes(node=model, relation=this, key='indexes') %}
    {% for index in node.config.get(key) or [] %}
        {% set default_name = node.name ~ '_' ~ (index.columns | join('_') | replace(' ', '_')) ~ '_idx' %}
        {% set creation %}
            create {{ 'unique' if index.unique }} index if not exists {{ index.name or default_name }}
            on {{ relation }} ({{ index.columns | join(', ') }})
            {% if index.include %}
            include ({{ index.include | join(', ') }})
            {% endif %}
            {% if index.where %}
            where {{ index.where }}
            {% endif %}
        {% endset %}
        {% do run_statement(creation) %}
    {% endfor %}
{% endmacro %}
