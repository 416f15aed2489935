"""Which month `make close` means."""

from __future__ import annotations

from datetime import date

import pytest

from eds.base.errors import UserError
from eds.warehouse.closing import month_end


@pytest.mark.parametrize(
    ("text", "end"),
    [("2026-02", date(2026, 2, 28)), ("2024-02", date(2024, 2, 29)), ("2026-12", date(2026, 12, 31))],
)
def test_a_month_ends_on_its_last_day(text: str, end: date) -> None:
    assert month_end(text) == end


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "0000-01", "2026-1", "2026-10-31", "october", "٢٠٢٦-١٠"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="make close MONTH=2026-10"):
        month_end(text)
