"""A book that is put back is one that a run takes for what it has always read."""

from __future__ import annotations

from support import saved_state
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform

CHANGES = (
    "update operational.customers set city = 'Kisumu' where customer_id = 2",
    "delete from operational.payments where payment_id = 3",
    "insert into operational.customers (full_name) values ('Newcomer')",
)


def test_after_it_was_put_back_the_next_run_reads_the_next_change_alone(small_book: Platform) -> None:
    platform = small_book
    state = saved_state.save(platform, "of_this_test")
    for _ in range(2):
        with platform.app() as connection:
            for change in CHANGES:
                connection.execute(change)
        platform.wait_for_replicas()
        run = platform.build().run
        assert run is not None
        # The same keys and counts both times: of the first time nothing is left.
        assert (run["extraction_mode"], run["rows_inserted"] > 0) == ("changes", True)
        assert platform.primary("select customer_id from operational.customers where full_name = 'Newcomer'") == [(7,)]
        assert_landing_equals_source(platform)
        assert_views_equal_the_oltp(platform)
        assert state.holds(platform)
        saved_state.restore(platform, state)
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
