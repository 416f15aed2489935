{# Refuse a project in which a failed model would not keep the models behind it from running, up to publishing:
   dbt's `on_error: continue` on any model. #}
{% macro assert_failures_stop_publishing() %}
    {% for node in node_summaries().values() if node.on_error == 'continue' %}
        {{ exceptions.raise_compiler_error(
            node.name ~ " has on_error: continue. After its failure the models behind it would run, and the dashboards "
            ~ "would show a half-built state. Remove it, or set on_error: skip_children."
        ) }}
    {% endfor %}
{% endmacro %}
