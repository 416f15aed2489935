"""What an import says about the next run, against what that run does."""

from __future__ import annotations

from eds.book.csv_import.next_step import mass_deletes, next_step
from eds.cluster.connections import connect
from support.platform import Platform


def test_the_confirmation_is_named_exactly_when_a_run_asks_for_it(small_book: Platform) -> None:
    cluster = small_book.cluster
    with connect(small_book.superuser_conninfo, autocommit=True) as book:
        (payments,) = book.execute("select count(*) from operational.payments").fetchone() or (0,)
        assert payments >= 18
        half = payments // 2 + payments % 2
        some = "select payment_id from operational.payments limit {}"
        delete = f"delete from operational.payments where payment_id in ({some})"
        book.execute(delete.format(payments - half))
        assert mass_deletes(cluster) == []
        book.execute(delete.format(half - 1))
        lost = payments - 1
        assert mass_deletes(cluster) == [f"{lost} of {payments} rows of payments"]
        assert "make etl NOW=1 MASS_DELETE=1" in next_step(cluster)
        small_book.wait_for_replicas()
        refused = small_book.dbt("run", "--select", "extraction")
        assert refused.exit_code != 0
        assert refused.run is not None
        assert f"lost {lost} of the {payments} rows" in str(refused.run["error_message"])
        # Rows that came for those that went are no loss.
        book.execute(
            "insert into operational.payments (loan_id, amount, principal_portion, interest_portion, payment_method)"
            " select (select max(loan_id) from operational.loans), 1, 1, 0, 'cash' from generate_series(1, %s)",
            (half,),
        )
        assert mass_deletes(cluster) == []
        assert next_step(cluster).endswith("make etl NOW=1")
        small_book.wait_for_replicas()
        assert small_book.dbt("run", "--select", "extraction").exit_code == 0
