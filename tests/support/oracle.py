"""The dashboard views computed straight from the OLTP tables, independently of the warehouse's code."""

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

# The grains of the dashboards' filters: a query on the view, and what it must give by the OLTP. Both are summed by what
# people read: a branch may have the unknown member's name, and two products may have one.
GRAIN_QUERIES = {
    "vw_collections": (
        """
        select month, branch_code, customer_segment, method, sum(payment_count) as payment_count,
            sum(payment_amount) as payment_amount, sum(principal_amount) as principal_amount,
            sum(interest_amount) as interest_amount, sum(penalty_amount) as penalty_amount
        from warehouse.vw_collections
        group by month, branch_code, customer_segment, method
        """,
        """
        select date_trunc('month', p.payment_date at time zone 'UTC')::date as month,
            coalesce(l.branch_code, 'unknown') as branch_code, c.segment as customer_segment, m.name as method,
            count(*) as payment_count, sum(p.amount) as payment_amount, sum(p.principal_portion) as principal_amount,
            sum(p.interest_portion) as interest_amount, sum(p.penalty_portion) as penalty_amount
        from operational.payments as p
        join operational.loans as l on l.loan_id = p.loan_id
        join operational.customers as c on c.customer_id = l.customer_id
        join (values ('mpesa', 'M-Pesa'), ('bank_transfer', 'Bank transfer'), ('cash', 'Cash'), ('cheque', 'Cheque'),
            ('online', 'Online')) as m (code, name) on m.code = p.payment_method
        group by 1, 2, 3, 4
        """,
    ),
    "vw_loan_book": (
        """
        select branch_code, loan_officer, product, customer_segment, loan_status, sum(loan_count) as loan_count,
            sum(disbursed_count) as disbursed_count, sum(disbursed_amount) as disbursed_amount,
            sum(outstanding_balance) as outstanding_balance, sum(total_paid) as total_paid,
            sum(interest_paid) as interest_paid, sum(payment_count) as payment_count
        from warehouse.vw_loan_book
        group by branch_code, loan_officer, product, customer_segment, loan_status
        """,
        """
        select coalesce(l.branch_code, 'unknown') as branch_code,
            coalesce(nullif(left(trim(l.loan_officer), 255), ''), 'unassigned') as loan_officer,
            r.product_name as product,
            c.segment as customer_segment, l.status as loan_status, count(*) as loan_count,
            count(*) filter (where l.status <> 'pending') as disbursed_count,
            coalesce(sum(l.amount) filter (where l.status <> 'pending'), 0) as disbursed_amount,
            sum(l.outstanding_balance) as outstanding_balance, sum(coalesce(p.paid, 0)) as total_paid,
            sum(coalesce(p.interest, 0)) as interest_paid, sum(coalesce(p.count, 0))::bigint as payment_count
        from operational.loans as l
        join operational.customers as c on c.customer_id = l.customer_id
        join operational.loan_products as r on r.product_id = l.product_id
        left join (
            select loan_id, sum(amount) as paid, sum(interest_portion) as interest, count(*) as count
            from operational.payments group by 1
        ) as p on p.loan_id = l.loan_id
        group by 1, 2, 3, 4, 5
        """,
    ),
    "vw_disbursements": (
        """
        select month, branch_code, product, customer_segment, sum(loan_count) as loan_count,
            sum(disbursed_amount) as disbursed_amount
        from warehouse.vw_disbursements
        group by month, branch_code, product, customer_segment
        """,
        """
        select date_trunc('month', l.disbursed_at at time zone 'UTC')::date as month,
            coalesce(l.branch_code, 'unknown') as branch_code, r.product_name as product,
            c.segment as customer_segment, count(*) as loan_count, sum(l.amount) as disbursed_amount
        from operational.loans as l
        join operational.customers as c on c.customer_id = l.customer_id
        join operational.loan_products as r on r.product_id = l.product_id
        where l.status <> 'pending' and l.disbursed_at is not null
        group by 1, 2, 3, 4
        """,
    ),
    "vw_loans": (
        """
        select loan_id, full_name, branch_code, product, loan_status, disbursed_on, principal_amount,
            outstanding_balance, total_paid, last_payment_date
        from warehouse.vw_loans
        """,
        """
        select l.loan_id, c.full_name, coalesce(l.branch_code, 'unknown') as branch_code, r.product_name as product,
            l.status as loan_status, (l.disbursed_at at time zone 'UTC')::date as disbursed_on,
            l.amount as principal_amount, l.outstanding_balance, coalesce(p.paid, 0) as total_paid,
            p.last as last_payment_date
        from operational.loans as l
        join operational.customers as c on c.customer_id = l.customer_id
        join operational.loan_products as r on r.product_id = l.product_id
        left join (
            select loan_id, sum(amount) as paid, max(payment_date) as last from operational.payments group by 1
        ) as p on p.loan_id = l.loan_id
        """,
    ),
}


def as_set(rows: list[dict[str, Any]]) -> set[tuple[tuple[str, Any], ...]]:
    """Return rows without their order, for comparison."""
    return {tuple(sorted(row.items())) for row in rows}


def rows_of(conninfo: str, query: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    with connect(conninfo) as connection:
        return connection.cursor(row_factory=dict_row).execute(query.encode()).fetchall()


def assert_views_equal_the_oltp(platform: Any, source: str | None = None) -> None:
    """Compare every view with the OLTP's figures, to the cent. The warehouse must have run since the last change.

    source: a superuser's connection string of the OLTP server that counts (default: the platform's primary).
    """
    for name in (*VIEW_QUERIES, *GRAIN_QUERIES):
        shown, wanted = GRAIN_QUERIES.get(name) or (f"select * from warehouse.{name}", VIEW_QUERIES[name])
        expected = as_set(rows_of(source or platform.superuser_conninfo, wanted))
        found = as_set(rows_of(platform.reader_conninfo, shown))
        assert found == expected, (
            f"{name} differs.\nonly in the view: {sorted(found - expected, key=str)[:5]}\n"
            f"only in the OLTP: {sorted(expected - found, key=str)[:5]}"
        )


def assert_landing_equals_source(platform: Any, source: str | None = None) -> None:
    """Compare every live landing row with its source row, in every column.

    source: a superuser's connection string of the OLTP server that counts (default: the platform's primary).
    """
    with connect(source or platform.superuser_conninfo) as oltp, connect(platform.warehouse_conninfo) as warehouse:
        for table, key in (
            ("customers", "customer_id"),
            ("loan_products", "product_id"),
            ("loans", "loan_id"),
            ("payments", "payment_id"),
            ("loan_installments", "installment_id"),
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
