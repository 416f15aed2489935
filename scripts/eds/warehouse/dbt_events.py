"""dbt's events: those that nobody will see are not turned into messages.

dbt makes a protobuf message of each of the 2,500 events of a run without a change, and another one around it, to find
out behind that that neither a log nor a callback wants it: a fifth of what such a run computes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager

_SEEN = (EventLevel.WARN, EventLevel.ERROR)
_fire_event = EventManager.fire_event
_make_message = BaseEvent.__init__


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


def _keep_arguments(event: BaseEvent, *args: Any, **kwargs: Any) -> None:
    """Make an event that becomes a message when that is asked for."""
    event.__dict__["_arguments"] = args, kwargs


def _message(event: BaseEvent) -> Any:
    """Make the message of an event, as dbt does at once."""
    args, kwargs = event.__dict__["_arguments"]
    _make_message(event, *args, **kwargs)
    return event.__dict__["pb_msg"]


def drop_unseen_events() -> None:
    """Let dbt in this process report warnings and errors alone, whatever its options for logs say."""
    message = cached_property(_message)
    message.__set_name__(BaseEvent, "pb_msg")
    # mypy lets no method be assigned.
    setattr(BaseEvent, "pb_msg", message)  # noqa: B010
    setattr(BaseEvent, "__init__", _keep_arguments)  # noqa: B010
    setattr(EventManager, "fire_event", _fire_what_is_seen)  # noqa: B010
