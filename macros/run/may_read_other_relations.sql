{#
    Whether ref() may name relations of another target in this command (--defer, DBT_DEFER), whose state is not recorded here.
    A --state alone only serves to select nodes.
#}
{% macro may_read_other_relations() %}
    {# Not among the flags that dbt shows to macros. #}
    {% set given = invocation_args_dict %}
    {{ return(given.get('defer') or given.get('DEFER') or false) }}
{% endmacro %}

{#
    Refuse a run under --defer. What a model has taken in, its parents' change logs and the results of tests are recorded
    in its own target, and say nothing about the relations of another one.
#}
{% macro assert_own_relations_are_read() %}
    {% if may_read_other_relations() %}
        {{ exceptions.raise_compiler_error(
            "Expected a run that reads the relations of its own target (" ~ target.name ~ "), found --defer (or DBT_DEFER), "
            ~ "with which models and tests may read those of another one. Nothing was changed. Run dbt " ~ flags.WHICH
            ~ " without --defer."
        ) }}
    {% endif %}
{% endmacro %}
