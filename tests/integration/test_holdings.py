"""What a question before something is destroyed says of a platform: exact figures."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from eds.ops.holdings import holdings
from eds.runtime.local.runtime import LocalRuntime
from eds.runtime.ports import free_ports
from support.platform import Platform


def test_the_book_the_warehouse_and_the_backups_are_counted(small_book: Platform) -> None:
    book, warehouse, *backups = holdings(small_book.runtime)
    assert book == "the loan book: 6 customers, 6 loans, 18 payments"
    runs = small_book.warehouse("select count(*) from audit.etl_runs")[0][0]
    months = small_book.warehouse("select count(distinct month_end) from publish.reported_month_ends")[0][0]
    assert warehouse == (
        f"the warehouse: {runs} runs on record, {months} months as they were reported, which no run can bring back"
    )
    assert not [line for line in backups if "dump" in line]


def test_dumps_are_counted_with_their_size(small_book: Platform) -> None:
    folder = small_book.settings.backups
    folder.mkdir(parents=True, exist_ok=True)
    dumps = [folder / f"backup_operational_20260101_00000{number}.dump" for number in range(3)]
    try:
        for dump in dumps:
            dump.write_bytes(b"x" * 1024)
        assert "3 dumps, 3.0 kB" in holdings(small_book.runtime)
    finally:
        for dump in dumps:
            dump.unlink()


def test_a_demo_book_is_called_one(small_book: Platform) -> None:
    small_book.primary("insert into operational.demo_book (payment_count, seed) values (18, 1)")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert holdings(small_book.runtime)[0] == f"the demo book of {today}: 6 customers, 6 loans, 18 payments"


def test_of_what_does_not_answer_a_line_says_so(small_book: Platform) -> None:
    primary_port, warehouse_port = free_ports(2)
    elsewhere = small_book.settings.model_copy(update={"primary_port": primary_port, "warehouse_port": warehouse_port})
    book, warehouse, *_ = holdings(LocalRuntime(elsewhere))
    assert re.match(r"the loan book, whose primary does not answer: make up starts it", book)
    assert warehouse == "the warehouse, which does not answer"
