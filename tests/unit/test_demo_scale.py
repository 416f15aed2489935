"""What a person may type for the size of a book, a duration and a rate."""

import math
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eds import up
from eds.base.errors import UserError
from eds.base.settings import Settings, ensure_env_file
from eds.book.demo.fill import MOST_PAYMENTS, Scale
from eds.book.demo.names import read_branches
from eds.book.simulate import parse_duration, simulate
from eds.cluster.connections import Cluster


@pytest.mark.parametrize(
    ("text", "payments"),
    [
        ("empty", 0),
        ("small", 20_000),
        ("medium", 250_000),
        ("large", 2_000_000),
        (" Small ", 20_000),
        ("1", 1),
        ("1000000", 1_000_000),
        ("1_000_000", 1_000_000),
        ("1M", 1_000_000),
        ("1m", 1_000_000),
        ("250k", 250_000),
        ("1.5M", 1_500_000),
        ("0.5k", 500),
    ],
)
def test_scale_is_understood(text: str, payments: int) -> None:
    assert Scale.parse(text).payments == payments


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "banana", "-5", "0", "0k", "0.0", "+5", "1e6", "1.5", "0.0001k", "k", "1__0", "_1", "1_", "1,000"),
        *("nan", "inf", "٣", "1 000", "1kk", "1G", "9" * 5000, str(MOST_PAYMENTS + 1)),
    ],
)
def test_another_scale_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        Scale.parse(text)
    message = str(refusal.value)
    assert message.startswith("Expected a scale")
    assert f"found {text!r}" in message
    assert "Choose" in message


@given(st.integers(1, MOST_PAYMENTS))
def test_a_number_of_payments_keeps_the_proportions(payments: int) -> None:
    scale = Scale.parse(str(payments))
    assert scale.payments == payments
    assert abs(scale.loans - payments / 17) <= 1
    assert abs(scale.customers - payments / 26) <= 1
    assert scale.loans >= 1
    assert scale.customers >= 1


@given(st.integers(1, 999_999))
def test_thousands_are_a_thousand_times_as_much(thousands: int) -> None:
    assert Scale.parse(f"{thousands}k") == Scale.parse(f"{thousands * 1000:_}")


@given(st.text(max_size=20))
def test_any_text_is_a_scale_or_a_user_error(text: str) -> None:
    try:
        scale = Scale.parse(text)
    except UserError:
        return
    assert scale.payments >= 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5h", 5400), (" 5 M ", 300), ("0.25", 0.25)],
)
def test_duration_is_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "-5m", "banana", "5x", "1h30m", "nan", "inf", "s", "9" * 5000])
def test_another_duration_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_duration(text)
    assert f"found {text!r}" in str(refusal.value)
    assert "Give" in str(refusal.value)


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_a_user_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except UserError:
        return
    assert 0 < seconds < math.inf


@pytest.mark.parametrize(
    ("rate", "seconds", "workers"),
    [(0, 1, 1), (-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 0, 1), (1, -1, 1), (1, math.nan, 1), (1, 1, 0)],
)
def test_simulation_refuses_senseless_numbers_before_it_connects(rate: float, seconds: float, workers: int) -> None:
    def connect() -> psycopg.Connection:
        raise AssertionError("connected")

    with pytest.raises(UserError, match=r"Expected a .* above zero"):
        simulate(connect, rate=rate, seconds=seconds, workers=workers)


@pytest.mark.parametrize(
    ("asked", "written"), [("large", "SCALE=large has no effect"), ("empty", "SCALE=empty"), (None, "")]
)
def test_a_scale_for_a_book_that_is_filled_is_said_to_have_no_effect(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    asked: str | None,
    written: str,
) -> None:
    monkeypatch.setattr(up, "book_is_empty", lambda cluster: False)
    ensure_env_file(tmp_path / ".env")
    cluster = Cluster(Settings(_env_file=tmp_path / ".env"))  # type: ignore[call-arg]
    assert up.fill_demo(cluster, asked) is False
    output = capsys.readouterr().err
    assert output.startswith(written) and bool(output) == bool(written)


def test_branches_are_distinct_and_complete() -> None:
    branches = read_branches()
    codes = [branch.branch_code for branch in branches]
    assert len(set(codes)) == len(codes)
    assert len({branch.branch_name for branch in branches}) == len(codes)
    assert {branch.country for branch in branches} == {"Kenya", "Uganda", "Tanzania", "Rwanda"}
    assert all(branch.city and branch.region for branch in branches)
