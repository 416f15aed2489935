"""`make bench`: what a run costs, at several sizes of the loan book, beside other ways to do the same work.

Everything is measured on a throw-away cluster of its own, in one go, on one machine; what counts are ratios within one
such go. With a directory to write into (docs), it keeps the raw figures (JSON) and the page benchmarks.md there.
"""

from __future__ import annotations
