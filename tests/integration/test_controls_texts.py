"""What the negative controls spoil stands in the project. Needs no server: `make test` runs it, unlike the controls."""

from __future__ import annotations

from eds.base.settings import ROOT

from . import test_controls_extraction, test_controls_lending, test_controls_marts, test_controls_publishing

CONTROLS = [
    control
    for module in (test_controls_extraction, test_controls_lending, test_controls_marts, test_controls_publishing)
    for control in module.CONTROLS
]


def test_the_texts_that_the_controls_spoil_are_there_once():
    gone = [
        (control.mechanism, name, text)
        for control in CONTROLS
        for name, text, _ in control.edits
        if (ROOT / name).read_text(encoding="utf-8").count(text) != 1
    ]
    assert gone == []
