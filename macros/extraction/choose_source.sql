{#
    Settle on a server of the cluster that may be read, and return how to reach it, as a dictionary:
      candidate       options of the foreign server `oltp` for this run, or none when they stay as they are
      server_port     the server's port
      name            the server's cluster_name
      snapshot_time   the time up to which it had provably replayed
      was_put_back    its state is older than what was seen, and no transaction is still to come that would explain it

    The foreign server lists all servers and prefers a standby. When the one that answers lacks what the warehouse has
    seen, or is not current, each server is tried by itself. When all lack something, wait for them, up to
    ETL_SOURCE_WAIT_SECONDS; when those that may be read are not current, wait for two seconds, then take the one that
    is least behind. A server that was promoted beside the primary, which the list names last, is passed over while that
    one takes writes (follows_another_primary). Every attempt is a transaction that is rolled back: the choice is an
    option of the run, which the foreign server never keeps.
#}
{% macro choose_source() %}
    {% set options = server_options() %}
    {% set candidates = [none] %}
    {% for host in options['hosts'] %}
        {% do candidates.append({'host': host, 'port': options['ports'][loop.index0]}) %}
    {% endfor %}
    {% set wait_seconds = env_var('ETL_SOURCE_WAIT_SECONDS', '30') | int %}
    {% set patience = [4, wait_seconds * 2] | min %}
    {% set found = namespace(choice=none, fallback=none, refused=[], has_former_timeline=false) %}
    {% for attempt in range(wait_seconds * 2 + 1) if found.choice is none %}
        {% if not loop.first %}
            {% do run_statement('select pg_sleep(0.5)') %}
        {% endif %}
        {% set found.refused = [] %}
        {% set found.fallback = none %}
        {% for candidate in candidates if found.choice is none %}
            {% set source = look_at(candidate) %}
            {% if source is not none %}
                {% set choice = {
                    'candidate': candidate,
                    'server_port': source['server_port'],
                    'name': source['name'],
                    'snapshot_time': source['snapshot_time'],
                    'was_put_back': source['verdict'] == 'unfinished' or is_former_timeline(source, candidate, candidates)
                } %}
                {% if follows_another_primary(source, candidate, candidates) %}
                    {% do candidate and found.refused.append('port ' ~ source['server_port'] ~ ' (timeline ' ~ source['timeline']
                        ~ ', not that of the primary, ' ~ candidates[-1].host ~ ':' ~ candidates[-1].port
                        ~ ', which takes writes: make rejoin)') %}
                {% elif source['verdict'] == 'behind'
                    and not (var('reconcile') and is_former_timeline(source, candidate, candidates)) %}
                    {% set found.has_former_timeline =
                        found.has_former_timeline or is_former_timeline(source, candidate, candidates) %}
                    {% do found.refused.append('port ' ~ source['server_port'] ~ ' (timeline ' ~ source['timeline']
                        ~ ', position ' ~ source['position_lsn'] ~ ')') %}
                {% elif source['verdict'] == 'unfinished' and (
                    attempt < patience or (source['waits_for_standby'] and not var('reconcile'))
                ) %}
                    {% do found.refused.append('port ' ~ source['server_port'] ~ (' (a commit that a standby shows already'
                        ~ ' waits there for synchronous replication)' if source['waits_for_standby'] else '')) %}
                {% elif source['is_current'] %}
                    {% set found.choice = choice %}
                {% elif found.fallback is none or source['snapshot_time'] > found.fallback['snapshot_time'] %}
                    {% set found.fallback = choice %}
                {% endif %}
            {% endif %}
        {% endfor %}
        {% if found.choice is none and found.fallback is not none and attempt >= patience %}
            {% do log('No server of the source is current. Port ' ~ found.fallback['server_port'] ~ ' is read, whose data'
                ~ ' are of ' ~ found.fallback['snapshot_time'] ~ '. Look at replication: make ps.', info=true) %}
            {% set found.choice = found.fallback %}
        {% endif %}
    {% endfor %}
    {% if found.choice is none %}
        {{ exceptions.raise_compiler_error(
            "Every server of the source is behind what the warehouse has seen: " ~ found.refused | unique | join(', ')
            ~ ". Waited " ~ wait_seconds ~ " s. Look at replication (make ps, the servers' logs); the next run tries again."
            ~ (" A server that was promoted meanwhile, and that the warehouse has read, has a later timeline than the"
               ~ " primary. When the primary is the right one: make reconcile." if found.has_former_timeline else '')
        ) }}
    {% endif %}
    {{ return(found.choice) }}
{% endmacro %}

{#
    Whether a server belongs to another line of history than the primary, which the list names last, while that one takes
    writes: it was promoted by hand, or follows one that was. What it has beyond the primary does not belong to the
    lender's book. When the primary does not answer, only the promoted one can have the later history.

    With several servers, whoever answers first (no candidate) is taken when it is a standby; one that takes writes is
    looked at under its own name.
#}
{% macro follows_another_primary(source, candidate, candidates) %}
    {% set named_last = candidates[-1] %}
    {% if candidates | length <= 2 or candidate == named_last
            or (source['is_standby'] and source['verdict'] != 'other') %}
        {{ return(false) }}
    {% endif %}
    {% set primary = look_at(named_last) %}
    {{ return(
        primary is not none and not primary['is_standby']
        and (not source['is_standby'] or source['timeline'] | int > primary['timeline'] | int)
    ) }}
{% endmacro %}

{#
    Whether this is the primary, which takes writes on an earlier timeline than the one that the warehouse has read: that
    of a server that was promoted beside it, or in its absence. No ordinary run decides which of them is right.
#}
{% macro is_former_timeline(source, candidate, candidates) %}
    {{ return(
        source['verdict'] == 'behind' and not source['is_standby']
        and (candidate == candidates[-1] or candidates | length <= 2)
    ) }}
{% endmacro %}

{#
    The verdict on one candidate, in a transaction that is rolled back; none when a single server does not answer.
    That no server at all answers is an error.
#}
{% macro look_at(candidate) %}
    {% do run_statement('begin') %}
    {% set source = none %}
    {% if candidate is none %}
        {% set source = source_verdict() %}
    {% else %}
        {% do set_server_options(candidate) %}
        {% if server_answers() %}
            {% set source = source_verdict() %}
        {% endif %}
    {% endif %}
    {% if source is not none %}
        {% set name = first_row("select setting from operational_fdw.source_settings where name = 'cluster_name'") %}
        {% do source.update({'name': name['setting']}) %}
    {% endif %}
    {% do run_statement('rollback') %}
    {{ return(source) }}
{% endmacro %}

{#
    Note which server this run is about to read, before it does: should that server freeze, its name is how anybody else
    finds out what the run waits for (scripts/eds/warehouse/source_watch.py).
#}
{% macro note_source(server) %}
    {% set note %}
        update audit.etl_runs
        set source_name = {{ sql_literal(server.name) }}
        where dbt_invocation_id = {{ sql_literal(invocation_id) }} and status = 'running'
    {% endset %}
    {% do run_statement(note) %}
{% endmacro %}

{% macro server_options() %}
    {% set question %}
        select
            max(option_value) filter (where option_name = 'host') as hosts,
            max(option_value) filter (where option_name = 'port') as ports,
            max(option_value) filter (where option_name = 'target_session_attrs') as attrs,
            max(option_value) filter (where option_name = 'fetch_size') as fetch_size,
            exists (
                select from pg_user_mappings where srvname = 'oltp' and usename in (current_user, 'public')
            ) as has_mapping
        from pg_foreign_server
        cross join lateral pg_options_to_table(srvoptions)
        where srvname = 'oltp'
    {% endset %}
    {% set row = first_row(question) %}
    {% if row['hosts'] is none %}
        {{ exceptions.raise_compiler_error("There is no foreign server oltp in the warehouse: `make up` creates it.") }}
    {% elif not row['has_mapping'] %}
        {{ exceptions.raise_compiler_error(
            "The foreign server oltp has no user mapping for the role that dbt uses: `make up` creates it."
        ) }}
    {% endif %}
    {{ return({'hosts': row['hosts'].split(','), 'ports': (row['ports'] | string).split(','),
               'attrs': row['attrs'] or 'any', 'fetch_size': (row['fetch_size'] or 100) | int}) }}
{% endmacro %}

{#
    Let this transaction read a single server. Never committed as it is: the transaction is rolled back, or puts the
    options back before it commits (restore_server_options).
#}
{% macro set_server_options(candidate) %}
    {% set alteration %}
        alter server oltp options (
            set host {{ sql_literal(candidate.host) }},
            set port {{ sql_literal(candidate.port) }},
            set target_session_attrs 'any'
        )
    {% endset %}
    {% do run_statement(alteration) %}
{% endmacro %}

{% macro restore_server_options(options) %}
    {% set alteration %}
        alter server oltp options (
            set host {{ sql_literal(options['hosts'] | join(',')) }},
            set port {{ sql_literal(options['ports'] | join(',')) }},
            set target_session_attrs {{ sql_literal(options['attrs']) }}
        )
    {% endset %}
    {% do run_statement(alteration) %}
{% endmacro %}

{#
    Whether the server that the options name accepts our connection, without failing when it does not.
#}
{% macro server_answers() %}
    {% set probe %}
        do $$
        begin
            perform 1 from operational_fdw.trail_end;
            perform set_config('etl.server_answers', 'yes', true);
        exception when others then
            perform set_config('etl.server_answers', 'no', true);
        end
        $$
    {% endset %}
    {% do run_statement(probe) %}
    {{ return(first_row("select current_setting('etl.server_answers') as answer")['answer'] == 'yes') }}
{% endmacro %}
