"""`make bench`: what a run costs, at several sizes of the loan book, beside other ways to do the same work.

Everything is measured on a throw-away cluster of its own, in one go, on one machine; what counts are ratios within one
such go. The command writes the raw figures (JSON) and the page docs/benchmarks.md.
"""

from __future__ import annotations
