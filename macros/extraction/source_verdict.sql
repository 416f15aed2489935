{#
    The state of the server that is connected, next to what the warehouse knows, and what follows from it (`verdict`):
      first       nothing was ever extracted
      same        it contains every transaction that the last snapshot contained: what changed since can be read
      behind      a standby that lacks some of them, or has not ended older ones: it will catch up
      unfinished  a primary that lacks some, but may still be about to show them: a standby shows a transaction that
                  waits for synchronous replication, or is just ending, before the primary does
      other       another cluster, another timeline, or a state from before what was seen: everything is compared

    The question is causal. Below the watermark every transaction had ended for the last snapshot, so it must have ended
    here (xmin >= watermark), and the trail's entries of the last of them must be the same ones (extraction_state.proven_*
    sums them up): a server whose disks were put back to a time between two commits, or that lost commits in a crash,
    may lack an entry that is not the newest. Of those at or above it, audit.extraction_transactions has the ones that
    the last snapshot saw: the trail's rows of each must be here, and so must the trail's newest entry. What is missing
    although it has ended here (its id is below xmin) was never part of this server's history.

    Visibility is asked of the trail's rows: on a standby pg_visible_in_snapshot() holds open transactions for visible.
#}
{% macro source_verdict() %}
    {% set state %}
        select
            watermark::text as watermark,
            snapshot_xmax::text as snapshot_xmax,
            exists (select from audit.extraction_transactions) as has_transactions,
            proven_from::text as proven_from,
            proven_until::text as proven_until
        from audit.extraction_state
    {% endset %}
    {% set known = first_row(state) %}
    {% if known is not none and known['proven_from'] is not none %}
        {% set summary = sum_up_trail(known['proven_from'], known['proven_until']) %}
        {% set is_proven %}
            (
                row(known.proven_entries, known.proven_log_ids, known.proven_first, known.proven_last)
                is not distinct from row(summary.entries, summary.log_ids, summary.first_time, summary.last_time)
            )
        {% endset %}
    {% else %}
        {% set summary, is_proven = 'select 0, 0, now(), now()', 'true' %}
    {% endif %}
    {% set missing %}
        {# Uncorrelated scalar sub-queries: postgres_fdw sends them along as parameters, and one row is looked up. #}
        select newest.xact_id
        from audit.extraction_trail as newest
        where (
            select count(*) from operational_fdw.trail
            where log_id = (select log_id from audit.extraction_trail)
                and xact_id = (select xact_id from audit.extraction_trail)
                and change_time = (select change_time from audit.extraction_trail)
        ) = 0
        {% if known is not none and known['has_transactions'] %}
        union all
        select seen.xact_id
        from audit.extraction_transactions as seen
        left join (
            select xact_id, log_id, change_time from operational_fdw.trail_transactions
            where xact_id >= '{{ known['watermark'] }}'::xid8 and xact_id < '{{ known['snapshot_xmax'] }}'::xid8
        ) as present
            on seen.xact_id = present.xact_id and seen.log_id = present.log_id and seen.change_time = present.change_time
        where present.xact_id is null
        {% endif %}
    {% endset %}
    {% set judgement %}
        with missing as (
            select min(xact_id) as xact_id from ({{ missing }}) as each_missing
        ),

        summary (entries, log_ids, first_time, last_time) as ({{ summary }}),

        source as (
            select
                state.*,
                known.*,
                state.snapshot_xmin >= known.watermark
                    and missing.xact_id is null
                    and {{ is_proven }}
                    -- Without the list of transactions it is enough that all which can have been seen have ended.
                    and (known.trail_is_complete or state.snapshot_xmin >= known.seen_xmax) as contains_all,
                coalesce(missing.xact_id < state.snapshot_xmin, false)
                    or (state.snapshot_xmin >= known.watermark and not {{ is_proven }}) as has_another_history,
                known.trail_is_complete or missing.xact_id is not null as is_certain
            from operational_fdw.source_state as state
            cross join missing
            cross join summary
            left join (
                select
                    watermark,
                    snapshot_xmax as seen_xmax,
                    system_identifier as known_identifier,
                    timeline as known_timeline,
                    source_position as known_position,
                    trail_is_complete,
                    proven_entries,
                    proven_log_ids,
                    proven_first,
                    proven_last
                from audit.extraction_state
            ) as known on true
        )

        select
            snapshot_xmin::text as snapshot_xmin,
            snapshot_xmax::text as snapshot_xmax,
            snapshot_time::text as snapshot_time,
            system_identifier,
            timeline::text as timeline,
            position_lsn,
            is_standby,
            is_current,
            waits_for_standby,
            server_port::text as server_port,
            watermark::text as watermark,
            case
                when watermark is null then 'first'
                when system_identifier <> known_identifier then 'other'
                when timeline < known_timeline then 'behind'
                -- A standby may follow the new timeline and not have replayed the old one's end.
                when timeline > known_timeline
                    then case when is_standby and not contains_all and not is_current then 'behind' else 'other' end
                when contains_all then 'same'
                when has_another_history then 'other'
                when is_standby then 'behind'
                when position_lsn::pg_lsn < known_position or not is_certain then 'other'
                else 'unfinished'
            end as verdict,
            case
                when system_identifier <> known_identifier
                    then 'another cluster (system identifier ' || system_identifier || ')'
                when timeline > known_timeline then 'timeline ' || timeline || ' after ' || known_timeline
                when not is_certain then 'more transactions overlapped the last run than it could note down'
                else 'entries of the audit trail that the last run saw are not there as they were: the source was '
                    || 'put back to an earlier state, or its trail was shortened or changed'
            end as reason
        from source
    {% endset %}
    {{ return(first_row(judgement)) }}
{% endmacro %}

{#
    What the trail has of the transactions in this range, in one row of aggregates, computed by the source.
#}
{% macro sum_up_trail(from, until) %}
    select count(*), sum(log_id), min(change_time), max(change_time)
    from operational_fdw.trail
    where xact_id >= '{{ from }}'::xid8 and xact_id < '{{ until }}'::xid8
{% endmacro %}

{#
    The statements that note down what this snapshot saw: the trail's newest entry, a summary of the transactions that
    had ended since the snapshot before it (or of the last ten thousand), and the transactions at or above the watermark.
    Of very many (behind a transaction that was forgotten open) no list is kept: the next run then asks for more than it
    must, and never for less.
#}
{% macro save_seen_transactions(source, verdict) %}
    {% set until = source['snapshot_xmin'] %}
    {% set from = source['watermark'] if verdict == 'same' else [0, until | int - 10000] | max %}
    update audit.extraction_state as known
    set
        proven_from = '{{ from }}'::xid8,
        proven_until = '{{ until }}'::xid8,
        proven_entries = seen.entries,
        proven_log_ids = seen.log_ids,
        proven_first = seen.first_time,
        proven_last = seen.last_time
    from ({{ sum_up_trail(from, until) }}) as seen (entries, log_ids, first_time, last_time)
    -- Very many entries are not summed up in each run.
    where seen.entries between {{ 1 if verdict == 'same' else 0 }} and {{ var('max_seen_transactions') | int }};

    -- Where nothing ended in between, the former summary still tells, and that there is nothing in between belongs to it:
    -- another server may have ended a transaction there.
    update audit.extraction_state as known
    set
        proven_from = case when {{ 'true' if verdict == 'same' else 'false' }} and not exists (
            select from operational_fdw.trail where xact_id >= '{{ from }}'::xid8 and xact_id < '{{ until }}'::xid8
        ) then proven_from end,
        proven_until = '{{ until }}'::xid8
    where proven_until <> '{{ until }}'::xid8;

    delete from audit.extraction_trail;
    insert into audit.extraction_trail (log_id, xact_id, change_time)
    select log_id, xact_id, change_time from operational_fdw.trail_end;

    delete from audit.extraction_transactions;
    {% if source['snapshot_xmin'] != source['snapshot_xmax'] %}
    insert into audit.extraction_transactions (xact_id, log_id, change_time)
    select xact_id, log_id, change_time
    from operational_fdw.trail_transactions
    where xact_id >= '{{ source['snapshot_xmin'] }}'::xid8 and xact_id < '{{ source['snapshot_xmax'] }}'::xid8
    limit {{ var('max_seen_transactions') | int + 1 }};

    with counted as (
        select count(*) > {{ var('max_seen_transactions') | int }} as too_many from audit.extraction_transactions
    ),

    forgotten as (
        delete from audit.extraction_transactions where (select too_many from counted)
    )

    update audit.extraction_state set trail_is_complete = not (select too_many from counted);
    {% else %}
    update audit.extraction_state set trail_is_complete = true;
    {% endif %}
{% endmacro %}
