{#
    What a node is made of, as two hashes in one text, <content>.<form>:

      content  decides about rows: the compiled SQL of a full computation (so: the macros and variables in it), the
               contract's columns, types and constraints, the configuration, and the content of the views, functions and
               seeds that it reads, with the run that last put one of them right. When it changes, the node's rows are brought to the new definition.
      form     decides about what surrounds them: descriptions, indexes, grants.

    compiled: the SQL of a full computation. parents_content: of the parents as they are in the warehouse, from
    node_state(). Rows of other marts are not part of it: their changes arrive through change logs.
#}
{% macro definition_hash(compiled, parents_content) %}
    {% set content = [compiled, parents_content, config.get('unique_key') | string, config.get('log_changes') | string,
                      config.get('accumulate') | string, config.get('delete_when') | string,
                      config.get('unknown_member') | string, placement_of(model), model.constraints | string] %}
    {% set form = [model.description, config.get('indexes') | string, config.get('grants') | string] %}
    {% if model.config.contract.enforced %}
        {% for column in model.columns.values() %}
            {% do content.append([column.name, column.data_type, column.constraints] | string) %}
        {% endfor %}
    {% endif %}
    {% for column in model.columns.values() %}
        {% do form.append([column.name, column.description] | string) %}
    {% endfor %}
    {% if model.resource_type == 'snapshot' %}
        {% do content.extend([config.get('strategy'), config.get('updated_at'), config.get('check_cols') | string]) %}
    {% endif %}
    {{ return(local_md5(content | join('|')) ~ '.' ~ local_md5(form | join('|'))) }}
{% endmacro %}

{#
    The content part of a definition hash, also of one that an earlier version stored.
#}
{% macro content_of(hash) %}
    {{ return((hash or '').split('.')[0]) }}
{% endmacro %}

{#
    The SQL of the node as a full computation, whatever increment() says in this run. Compiled once per run.
#}
{% macro compiled_in_full() %}
    {% if config.get('materialized') != 'upsert' and model.get('compiled_code') %}
        {{ return(model['compiled_code']) }}
    {% endif %}
    {% set known = graph.setdefault('compiled_in_full', {}) %}
    {% if model.unique_id not in known %}
        {% do model.update({'computes_in_full': true}) %}
        {% do known.update({model.unique_id: render(model.raw_code)}) %}
        {% do model.update({'computes_in_full': false}) %}
    {% endif %}
    {{ return(known[model.unique_id]) }}
{% endmacro %}
