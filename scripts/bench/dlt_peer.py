"""dlt's part of the benchmark: four tables by `updated_at`, merged by key into the database of the peer.

Runs in an environment of its own (dlt is no dependency of the project), as a program: it reads the connection strings
from the environment, and prints the seconds that one run took.
"""

from __future__ import annotations

import os
import time

import dlt  # type: ignore[import-not-found]
from dlt.sources.sql_database import sql_table  # type: ignore[import-not-found]

KEYS = {"customers": "customer_id", "loan_products": "product_id", "loans": "loan_id", "payments": "payment_id"}
CHUNK = 100_000


def main() -> None:
    """Run the pipeline once: what changed since the last run, or everything."""
    pipeline = dlt.pipeline(
        pipeline_name="peer",
        destination=dlt.destinations.postgres(os.environ["PEER_TARGET"]),
        dataset_name="landing",
    )
    tables = [
        sql_table(
            credentials=os.environ["PEER_SOURCE"],
            table=table,
            schema="operational",
            backend="pyarrow",
            chunk_size=CHUNK,
            incremental=dlt.sources.incremental("updated_at"),
            primary_key=key,
            write_disposition={"disposition": "merge", "strategy": "upsert"},
        )
        for table, key in KEYS.items()
    ]
    started = time.monotonic()
    pipeline.run(tables, loader_file_format="csv").raise_on_failed_jobs()
    print(time.monotonic() - started)


main()
