"""dbt's events: those that nobody will see are not turned into messages.

dbt makes a protobuf message of each of the 2,500 events of a run without a change, to find out behind that that neither
a log nor a callback wants it: a twelfth of what such a run computes.
"""

from __future__ import annotations

from typing import Any

from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager

_SEEN = (EventLevel.WARN, EventLevel.ERROR)
_fire_event = EventManager.fire_event


def _fire_what_is_seen(
    manager: EventManager,
    e: BaseEvent,
    level: EventLevel | None = None,
    node: Any = None,
    force_warn_or_error_handling: bool = False,
) -> None:
    """Fire an event as dbt does, unless it is less than a warning."""
    if force_warn_or_error_handling or (level or e.level_tag()) in _SEEN:
        _fire_event(manager, e, level, node, force_warn_or_error_handling)


def drop_unseen_events() -> None:
    """Let dbt in this process report warnings and errors alone, whatever its options for logs say."""
    setattr(EventManager, "fire_event", _fire_what_is_seen)  # noqa: B010 - mypy lets no method be assigned
