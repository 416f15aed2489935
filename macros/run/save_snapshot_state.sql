{#
    post-hook of the snapshots: fence, placement, indexes, then save the state, in the snapshot's own transaction.
#}
{% macro save_snapshot_state() %}
    {% if execute and is_recorded_run() %}
        {% do place_table(this, placement_of(model)) %}
        {# A version is there once, also after pg_restore put rows to those that are there. #}
        {% set version = key_in_place(['dbt_scd_id'], placement_of(model)) | join(', ') %}
        {% do run_statement("create unique index if not exists " ~ model.name ~ "_dbt_scd_id_idx on " ~ this
            ~ " (" ~ version ~ ")") %}
        {% for column in [config.get('unique_key'), '_run_id'] %}
            {% do run_statement("create index if not exists " ~ model.name ~ "_" ~ column ~ "_idx on " ~ this ~ " (" ~ column ~ ")") %}
        {% endfor %}
        {% do analyze_rewritten(this) %}
        {% set run_id = assert_run_is_ours() %}
        {% if reads_everything() %}
            {{ save_model_state(model.name, run_id, model['saved_hash'], rebuilt=model['rebuilt']) }}
        {% endif %}
    {% endif %}
{% endmacro %}
