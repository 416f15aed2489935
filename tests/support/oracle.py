"""The five dashboard views computed straight from the OLTP tables, independently of the warehouse's code."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from eds.cluster.connections import connect

VIEW_QUERIES = {
    "vw_monthly_revenue": """
        select extract(year from m)::int as year, extract(month from m)::int as month,
            trim(to_char(m, 'Month')) as month_name, total_revenue, total_principal, total_interest, total_penalty,
            payment_count
        from (
            select date_trunc('month', payment_date) as m, sum(amount) as total_revenue,
                sum(principal_portion) as total_principal, sum(interest_portion) as total_interest,
                sum(penalty_portion) as total_penalty, count(*) as payment_count
            from operational.payments group by 1
        ) as months
    """,
    "vw_top_customers": """
        select c.customer_id, c.full_name, c.segment, c.city,
            (select count(*) from operational.loans as l where l.customer_id = c.customer_id) as total_loans,
            coalesce(sum(p.amount), 0) as total_paid, count(p.payment_id) as payment_count,
            max(p.payment_date) as last_payment_date
        from operational.customers as c
        left join operational.loans as l on l.customer_id = c.customer_id
        left join operational.payments as p on p.loan_id = l.loan_id
        group by c.customer_id
    """,
    "vw_loan_status_distribution": """
        select l.status as loan_status, c.segment as customer_segment, count(*) as loan_count,
            sum(l.amount) as total_loan_amount, sum(l.outstanding_balance) as total_outstanding,
            round(avg(l.interest_rate), 4) as avg_interest_rate
        from operational.loans as l join operational.customers as c on c.customer_id = l.customer_id
        group by 1, 2
    """,
    "vw_payment_by_method": """
        select m.name as method_name, count(p.payment_id) as payment_count, coalesce(sum(p.amount), 0) as total_amount,
            coalesce(round(100 * sum(p.amount) / nullif((select sum(amount) from operational.payments), 0), 2), 0)
                as pct_of_total
        from (values ('mpesa', 'M-Pesa'), ('bank_transfer', 'Bank transfer'), ('cash', 'Cash'), ('cheque', 'Cheque'),
            ('online', 'Online')) as m (code, name)
        left join operational.payments as p on p.payment_method = m.code
        group by m.name
    """,
    "vw_branch_performance": """
        select coalesce(l.branch_code, 'unknown') as branch_code, count(*) as loan_count,
            count(*) filter (where l.status = 'active') as active_loans,
            sum(case when l.status = 'pending' then 0 else l.amount end) as total_disbursed,
            sum(coalesce(p.paid, 0)) as total_collected, sum(coalesce(p.interest, 0)) as total_interest_earned,
            sum(l.outstanding_balance) as total_outstanding,
            coalesce(round(100.0 * count(*) filter (where l.status in ('defaulted', 'written_off'))
                / nullif(count(*) filter (where l.status <> 'pending'), 0), 2), 0) as default_rate,
            round(avg(l.interest_rate), 4) as avg_rate
        from operational.loans as l
        left join (
            select loan_id, sum(amount) as paid, sum(interest_portion) as interest from operational.payments group by 1
        ) as p on p.loan_id = l.loan_id
        group by 1
    """,
}


def as_set(rows: list[dict[str, Any]]) -> set[tuple[tuple[str, Any], ...]]:
    """Rows without their order, for comparison."""
    return {tuple(sorted(row.items())) for row in rows}


def expected_view(conninfo: str, name: str) -> list[dict[str, Any]]:
    """Return what a view should show now, by the OLTP tables at `conninfo`."""
    with connect(conninfo) as connection:
        return connection.cursor(row_factory=dict_row).execute(VIEW_QUERIES[name]).fetchall()


def assert_views_equal_the_oltp(platform: Any, source: str | None = None) -> None:
    """Every view equals the OLTP's figures, to the cent. The warehouse must have run since the last change.

    source: a superuser's connection string of the OLTP server that counts (default: the platform's primary).
    """
    for name in VIEW_QUERIES:
        expected = as_set(expected_view(source or platform.superuser_conninfo, name))
        found = as_set(platform.view(name))
        assert found == expected, (
            f"{name} differs.\nonly in the view: {sorted(found - expected, key=str)[:5]}\n"
            f"only in the OLTP: {sorted(expected - found, key=str)[:5]}"
        )


def assert_landing_equals_source(platform: Any, source: str | None = None) -> None:
    """Every live landing row equals its source row, in every column.

    source: a superuser's connection string of the OLTP server that counts (default: the platform's primary).
    """
    with connect(source or platform.superuser_conninfo) as oltp, connect(platform.warehouse_conninfo) as warehouse:
        for table, key in (
            ("customers", "customer_id"),
            ("loan_products", "product_id"),
            ("loans", "loan_id"),
            ("payments", "payment_id"),
        ):
            names = oltp.execute(
                "select string_agg(attname, ', ' order by attnum) from pg_attribute "
                "where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                (f"operational.{table}",),
            ).fetchone()
            columns = names and names[0]
            expected = oltp.execute(f"select {key}, t::text from operational.{table} as t order by {key}").fetchall()
            found = warehouse.execute(
                f"select {key}, t::text from (select {columns} from operational.{table} where _deleted_at is null) "
                f"as t order by {key}"
            ).fetchall()
            assert found == expected, (
                f"{table} differs.\nonly in the warehouse: {sorted(set(found) - set(expected))[:5]}\n"
                f"only in the source: {sorted(set(expected) - set(found))[:5]}"
            )
