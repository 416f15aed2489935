"""`python -m bench`: the benchmark, apart from the product's own command line."""

from __future__ import annotations

from bench.commands import app
from eds.cli import main

main(app)
