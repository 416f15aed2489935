{#
    Whether a test has passed over all rows as it is defined now, and has not failed over all rows since. Then it need
    only look at what changed since the last published state. One that is new, or was redefined, and one that the nightly
    run has seen fail, look at everything until they pass.
#}
{% macro is_proven(test_id) %}
    {{ return(test_states().get(test_id) == node_summaries()[test_id].definition) }}
{% endmacro %}

{#
    The tests that have passed over all rows, as a dictionary of their definitions by their ids. Asked for once per run.
#}
{% macro test_states() %}
    {% if 'test_states' not in graph %}
        {% set found = {} %}
        {% for row in run_query("select test_id, definition_hash from " ~ audit_schema() ~ ".test_states").rows %}
            {% do found.update({row['test_id']: row['definition_hash']}) %}
        {% endfor %}
        {% do graph.update({'test_states': found}) %}
    {% endif %}
    {{ return(graph['test_states']) }}
{% endmacro %}

{#
    What a test is made of, as a hash: its text, its arguments and configuration, dbt's version, and the text of the
    project's macros that it calls, at any depth. test: a node of the graph.
#}
{% macro test_definition_hash(test) %}
    {% set metadata = test.test_metadata.kwargs if test.test_metadata else none %}
    {% set texts = [test.raw_code, metadata | string, dbt_version] %}
    {% for option in ('where', 'limit', 'fail_calc', 'warn_if', 'error_if', 'severity') %}
        {% do texts.append(test.config.get(option) | string) %}
    {% endfor %}
    {# dbt itself calls these two around each test. #}
    {% set own = 'macro.' ~ project_name ~ '.' %}
    {% set open = test.depends_on.macros + [own ~ 'get_where_subquery', own ~ 'postgres__get_test_sql'] %}
    {% set seen = [] %}
    {% for _ in range(1000) if open %}
        {% set macro_id = open.pop() %}
        {% if macro_id.startswith(own) and macro_id not in seen %}
            {% set definition = context[macro_id.split('.')[-1]].macro %}
            {% do seen.append(macro_id) %}
            {% do texts.append(definition.macro_sql) %}
            {% do open.extend(definition.depends_on.macros) %}
        {% endif %}
    {% endfor %}
    {{ return(local_md5(texts | join('|'))) }}
{% endmacro %}
