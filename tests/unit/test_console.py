"""What others have written reaches a person as it is: brackets in it are no markup."""

import io

import pytest
from rich.console import Console

from eds.base import console
from eds.ops import failover, health

TEXTS = ("Clients [final].csv", "[/x]", "a [b", "[red]x[/red]", "C:\\[a]\\")


@pytest.fixture(params=[True, False], ids=["terminal", "log"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return what both consoles write, as a terminal without colours shows it, or as a log has it."""
    text = io.StringIO()
    own = Console(file=text, force_terminal=request.param, no_color=True, color_system=None, width=200)
    for module in (console, health):
        for name in ("out", "err"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, own)
    return text


@pytest.mark.parametrize("text", TEXTS)
def test_steps_and_bars_show_their_labels(screen, text):
    with console.step(text):
        pass
    with console.bar(text, 1) as advance:
        advance(1)
        advance(0, text)
    assert screen.getvalue().count(text) >= 2


@pytest.mark.parametrize("text", TEXTS)
def test_health_shows_names_that_sessions_and_tests_give_themselves(screen, text):
    found = {"healthy": True, "age_minutes": 1.0, "oldest_transaction": text, "test_warnings": [text]}
    health.show(found | {"backup_ages": text, "warnings": [text], "problems": []})
    health.show({"healthy": False, "problems": [text], "warnings": []})
    assert screen.getvalue().count(text) == 5


@pytest.mark.parametrize("text", TEXTS)
def test_the_lost_changes_are_shown_whole(screen, text):
    console.out.print(failover.changes_table("lost", [(1, 2, 3, "UPDATE", "customers", 7, text)]))
    assert text in screen.getvalue()
