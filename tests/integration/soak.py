"""Everything at once, for as long as one likes: make soak FOR=30m."""

from __future__ import annotations

import os
import random
import signal
import time

from eds.book.demo import fill
from eds.book.simulate import parse_duration
from eds.cluster.connections import connect
from eds.warehouse.runs import SCHEDULED_BUILD
from support.oracle import assert_landing_equals_source, assert_views_equal_the_oltp
from support.platform import Platform, kill_server, use_only
from support.random_book import KINDS, Change
from support.readers import Readers, oltp_state
from support.story import CLOCKS, Story

CHANGES = (*KINDS, *KINDS, *CLOCKS, "late_segment", "late_status")
RUNS = ("run", "run", "run", "full refresh", "reconcile", "killed run", "killed replica", "other source")


def before_the_run(platform: Platform, what: str, chance: random.Random, seconds: float) -> list[str]:
    """What happens before, or to, the run at the end of a round. Returns options of that run."""
    if what == "full refresh":
        return ["--full-refresh"]
    if what == "reconcile":
        return ["--vars", "{reconcile: true, full_tests: true}"]
    if what == "other source":
        use_only(platform, *chance.sample(("replica1", "replica2", "primary"), k=chance.randint(1, 3)))
    elif what.startswith("killed"):
        name = chance.choice(("replica1", "replica2"))
        child = platform.start_dbt(*SCHEDULED_BUILD, environment={"ETL_MAX_DELETE_SHARE": "1"})
        time.sleep(chance.uniform(0.1, seconds))
        if what == "killed run":
            os.kill(child.pid, signal.SIGKILL)
        else:
            kill_server(platform, name)
        child.join()
        if what == "killed replica":
            platform.runtime.postmaster.start(name)
    return []


def test_the_promises_hold_for_as_long_as_it_runs(platform, chance):
    seconds_to_go = parse_duration(os.environ.get("SOAK_FOR") or "5m")
    with connect(platform.superuser_conninfo) as connection:
        fill.fill(connection, fill.Scale.parse("500"))
    platform.wait_for_replicas()
    story, told = Story(platform), []
    story.run()
    published = [oltp_state(platform.superuser_conninfo)]
    end, rounds, seconds = time.monotonic() + seconds_to_go, 0, 4.0
    try:
        while time.monotonic() < end:
            rounds += 1
            changes = [
                Change(chance.choice(CHANGES), chance.randrange(1000), chance.randrange(1000))
                for _ in range(chance.randint(3, 40))
            ]
            what = chance.choice(RUNS)
            print(f"round {rounds}: {len(changes)} changes, then {what}", flush=True)
            told.append(f"round {rounds}, then {what}: {changes}")
            with Readers(platform.reader_conninfo) as readers:
                for change in changes:
                    story.tell(change)
                platform.wait_for_replicas()
                published.append(oltp_state(platform.superuser_conninfo))
                options = before_the_run(platform, what, chance, seconds)
                started = time.monotonic()
                story.run(*options)
                seconds = time.monotonic() - started
                # Late transactions have committed by now: what the run saw is in the history alone.
                if not story.ended_late:
                    assert_landing_equals_source(platform)
                    assert_views_equal_the_oltp(platform)
            readers.assert_good(*published[-2:])
    except BaseException as error:
        error.add_note("\n".join(told[-3:]))
        raise
    finally:
        story.end_late()
    story.run()
    assert_landing_equals_source(platform)
    assert_views_equal_the_oltp(platform)
    assert rounds > 0
    print(f"{rounds} rounds")
