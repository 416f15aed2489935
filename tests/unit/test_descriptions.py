"""What the dbt project says about its columns: each has a text, and a text that many columns share stands once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import yaml

from eds.base.settings import ROOT

BLOCK = re.compile(r"\{% docs (\w+) %\}\n(.+?)\n\{% enddocs %\}", re.DOTALL)
REFERENCE = re.compile(r"\{\{ doc\('(\w+)'\) \}\}")
# From this many columns on, a text belongs into models/docs.md.
SHARED_FROM = 3


def described_columns() -> Iterator[tuple[str, str]]:
    """Yield each column of the project as <relation>.<column>, with its description as the file has it."""
    for folder in ("models", "seeds", "snapshots"):
        for file in sorted((ROOT / folder).rglob("*.yml")):
            parsed = yaml.safe_load(file.read_text(encoding="utf-8"))
            relations = [node for kind in ("models", "seeds", "snapshots") for node in parsed.get(kind, [])]
            relations += [table for source in parsed.get("sources", []) for table in source["tables"]]
            for relation in relations:
                for column in relation.get("columns", []):
                    yield f"{relation['name']}.{column['name']}", column.get("description", "").strip()


def test_every_column_has_a_description_that_reads_on_its_own():
    assert not [
        column
        for column, text in described_columns()
        if not REFERENCE.fullmatch(text) and (len(text.split()) < 2 or text.lower().startswith("see "))
    ]


def test_a_text_that_several_columns_share_is_a_doc_block():
    columns = defaultdict(list)
    for column, text in described_columns():
        if not REFERENCE.fullmatch(text):
            columns[text].append(column)
    assert not {text: names for text, names in columns.items() if len(names) >= SHARED_FROM}, (
        "move the text to models/docs.md and refer to it: \"{{ doc('name') }}\""
    )


def test_every_doc_block_is_used_and_no_two_have_one_text():
    blocks = BLOCK.findall((ROOT / "models/docs.md").read_text(encoding="utf-8"))
    names, texts = zip(*blocks, strict=True)
    assert not [text for text, count in Counter(texts).items() if count > 1]
    used = {name for _, text in described_columns() for name in REFERENCE.findall(text)}
    assert set(names) == used
