{#
    Settle on a server of the cluster that is not behind what the warehouse has seen already.

    The foreign server `oltp` lists all servers and prefers a standby. When the one that answers is behind, or still on
    an older timeline, each server is tried in first place; when all are behind, wait for them, up to
    ETL_SOURCE_WAIT_SECONDS. Raises when none catches up. Returns the options to put back afterwards, or none.
#}
{% macro choose_source() %}
    {% set options = server_options() %}
    {% set hosts = options['hosts'] %}
    {% set ports = options['ports'] %}
    {% set candidates = [{'hosts': hosts, 'ports': ports, 'attrs': options['attrs']}] %}
    {% for host in hosts %}
        {% do candidates.append({'hosts': [host], 'ports': [ports[loop.index0]], 'attrs': 'any'}) %}
    {% endfor %}
    {% set wait_seconds = env_var('ETL_SOURCE_WAIT_SECONDS', '30') | int %}
    {% set chosen = namespace(done=false, changed=false, seen=[]) %}
    {% for attempt in range(wait_seconds * 2 + 1) %}
        {% if not chosen.done %}
            {% set chosen.seen = [] %}
            {% for candidate in candidates %}
                {% if not chosen.done and (loop.first or server_answers(candidate)) %}
                    {% if not loop.first or chosen.changed %}
                        {% do set_server_options(candidate) %}
                        {% set chosen.changed = not loop.first %}
                    {% endif %}
                    {% set source = source_verdict() %}
                    {% do run_statement('commit') %}
                    {% if source['verdict'] == 'behind' %}
                        {% do chosen.seen.append('port ' ~ source['server_port'] ~ ' (timeline ' ~ source['timeline']
                            ~ ', position ' ~ source['position_lsn'] ~ ')') %}
                    {% else %}
                        {% set chosen.done = true %}
                    {% endif %}
                {% endif %}
            {% endfor %}
            {% if not chosen.done and not loop.last %}
                {% do run_statement('select pg_sleep(0.5); commit') %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {% if not chosen.done %}
        {% do set_server_options(candidates[0]) %}
        {% do run_statement('commit') %}
        {{ exceptions.raise_compiler_error(
            "Every server of the source is behind what the warehouse has seen: " ~ chosen.seen | unique | join(', ')
            ~ ". Waited " ~ wait_seconds ~ " s. Look at replication (make ps, the servers' logs); the next run tries again."
        ) }}
    {% endif %}
    {{ return(candidates[0] if chosen.changed else none) }}
{% endmacro %}

{#
    The source's state next to what the warehouse knows, and what follows from it:
    first (never extracted), same (the cluster we know), other (another cluster, timeline or one that was put back to an
    earlier state: everything must be compared), behind (a server that lags).
#}
{% macro source_verdict() %}
    {{ return(first_row("
        select
            source.snapshot_xmin::text as snapshot_xmin,
            source.snapshot_xmax::text as snapshot_xmax,
            source.snapshot_time::text as snapshot_time,
            source.system_identifier,
            source.timeline::text as timeline,
            source.position_lsn,
            source.is_standby,
            source.server_port::text as server_port,
            known.watermark::text as watermark,
            case
                when known.watermark is null then 'first'
                when source.system_identifier <> known.system_identifier then 'other'
                when source.timeline > known.timeline then 'other'
                when source.timeline < known.timeline then 'behind'
                when source.snapshot_xmin < known.watermark or source.snapshot_xmax < known.snapshot_xmax
                    then case when source.is_standby then 'behind' else 'other' end
                -- Uncorrelated scalar sub-queries: postgres_fdw sends them along as parameters, and one row is looked up.
                when exists (select from audit.extraction_trail) and (
                    select count(*) from operational_fdw.trail
                    where log_id = (select log_id from audit.extraction_trail)
                        and xact_id = (select xact_id from audit.extraction_trail)
                        and change_time = (select change_time from audit.extraction_trail)
                ) = 0 then 'other'
                else 'same'
            end as verdict,
            case
                when source.system_identifier <> known.system_identifier
                    then 'another cluster (system identifier ' || source.system_identifier || ')'
                when source.timeline > known.timeline then 'timeline ' || source.timeline || ' after ' || known.timeline
                else 'the source was put back to an earlier state than the one seen'
            end as reason
        from operational_fdw.source_state as source
        left join audit.extraction_state as known on true
    ")) }}
{% endmacro %}

{% macro server_options() %}
    {% set row = first_row("
        select
            max(option_value) filter (where option_name = 'host') as hosts,
            max(option_value) filter (where option_name = 'port') as ports,
            max(option_value) filter (where option_name = 'target_session_attrs') as attrs
        from pg_foreign_server
        cross join lateral pg_options_to_table(srvoptions)
        where srvname = 'oltp'
    ") %}
    {% if row['hosts'] is none %}
        {{ exceptions.raise_compiler_error("There is no foreign server oltp in the warehouse: `make up` creates it.") }}
    {% endif %}
    {{ return({'hosts': row['hosts'].split(','), 'ports': (row['ports'] | string).split(','),
               'attrs': row['attrs'] or 'any'}) }}
{% endmacro %}

{% macro set_server_options(candidate) %}
    {% do run_statement("alter server oltp options (set host " ~ sql_literal(candidate.hosts | join(','))
        ~ ", set port " ~ sql_literal(candidate.ports | join(',')) ~ ", set target_session_attrs "
        ~ sql_literal(candidate.attrs) ~ "); commit") %}
{% endmacro %}

{#
    Whether a single server accepts our connection, without failing when it does not.
#}
{% macro server_answers(candidate) %}
    {% do set_server_options(candidate) %}
    {% do run_statement("
        do $$
        begin
            perform 1 from operational_fdw.source_state;
            perform set_config('etl.server_answers', 'yes', false);
        exception when others then
            perform set_config('etl.server_answers', 'no', false);
        end
        $$
    ") %}
    {% set answers = first_row("select current_setting('etl.server_answers') as answer")['answer'] == 'yes' %}
    {% do run_statement('commit') %}
    {{ return(answers) }}
{% endmacro %}
