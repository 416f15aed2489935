"""macros/_macros.yml describes every macro of the dbt project, with the arguments that it takes."""

from __future__ import annotations

import re

import yaml

from eds.base.settings import ROOT

MACRO = re.compile(r"\{%-? macro (\w+)\((.*?)\) -?%\}", re.DOTALL)


def arguments(signature: str) -> list[str]:
    """Return the names in a macro's signature; defaults hold no comma."""
    return [part.split("=")[0].strip() for part in signature.split(",") if part.strip()]


def test_every_macro_is_described_with_its_arguments():
    found = {
        name: arguments(signature)
        for file in (ROOT / "macros").rglob("*.sql")
        for name, signature in MACRO.findall(file.read_text(encoding="utf-8"))
    }
    described = yaml.safe_load((ROOT / "macros/_macros.yml").read_text(encoding="utf-8"))["macros"]
    assert {macro["name"]: [item["name"] for item in macro.get("arguments", [])] for macro in described} == found
    assert all(macro["description"].strip() for macro in described)
    assert all(item["description"] and item["type"] for macro in described for item in macro.get("arguments", []))


def test_sql_of_several_lines_stands_in_set_blocks():
    tag = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
    string = re.compile(r"\"[^\"]*\"|'[^']*'")
    assert not [
        f"{file.relative_to(ROOT)}: {text.splitlines()[0]} …"
        for file in (ROOT / "macros").rglob("*.sql")
        for expression in tag.findall(re.sub(r"\{#.*?#\}", "", file.read_text(encoding="utf-8"), flags=re.DOTALL))
        for text in string.findall(expression)
        if "\n" in text
    ]
