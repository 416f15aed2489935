{#
    post-hook of published_state: keep the figures of each month that is closed as they are published now. A month is closed
    by the first run that publishes data of CLOSE_DAY of the next month or later; what was kept is never changed, which
    the table itself refuses. A month of which only a clock that was ahead made a report (counts_as_report) is reported as a
    further version. In the transaction that publishes.
#}
{% macro keep_reported_months() %}
    {% if not execute or flags.WHICH != 'build' %}
        {{ return('') }}
    {% endif %}
    {% set reports = published_relation('reported_month_ends') %}
    {% set refusal = published_relation('refuse_rewriting_reports') %}
    {% set figures = 'gross_loan_portfolio, par_1, par_30, par_60, par_90, par_180' %}
    {% if not relation_exists(reports) %}
        {% set creation %}
            create table {{ reports }} (
                month_end date not null,
                report_version integer not null default 1,
                branch_sk bigint not null,
                gross_loan_portfolio numeric(20, 2) not null,
                par_1 numeric(20, 2) not null,
                par_30 numeric(20, 2) not null,
                par_60 numeric(20, 2) not null,
                par_90 numeric(20, 2) not null,
                par_180 numeric(20, 2) not null,
                reported_at timestamptz not null default clock_timestamp(),
                primary key (month_end, report_version, branch_sk)
            );
            create or replace function {{ refusal }}() returns trigger
            language plpgsql
            as $$
            begin
                raise exception 'A reported month is not changed: % of reported_month_ends is refused', lower(tg_op)
                    using hint = 'The figures as they are known today are in vw_restated_months.';
            end
            $$;
            create trigger reported_month_ends_append_only
            before update or delete or truncate on {{ reports }}
            for each statement execute function {{ refusal }}()
        {% endset %}
        {% do run_statement(creation) %}
    {% endif %}
    insert into {{ reports }} (month_end, report_version, branch_sk, {{ figures }})
    select
        months.month_end,
        (
            select coalesce(max(earlier.report_version), 0) + 1 from {{ reports }} as earlier
            where earlier.month_end = months.month_end
        ),
        months.branch_sk,
        {{ figures }}
    from {{ published_relation('agg_month_ends_by_branch') }} as months
    where
        months.month_end + {{ lending_settings().close_day }} <= {{ data_day() }}
        and not exists (
            select from {{ reports }} as kept
            where kept.month_end = months.month_end and {{ counts_as_report('kept') }}
        )
{% endmacro %}
