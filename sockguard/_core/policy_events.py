"""What is told of a policy itself: what it amounts to, and which variables were meant to be one of its fields."""

from collections.abc import Mapping

from sockguard._core.events import Event, EventName, make_event
from sockguard._core.policy import Policy, unknown_variables

__all__ = ["in_force", "warnings_of"]

MAX_VALUE = 80
"""Characters of a value that are told; the longest that makes sense has twenty."""


def in_force(policy: Policy, pid: int) -> Event:
    """Makes the event that tells what a policy amounts to."""
    keepalive = policy.keepalive if policy.mode == "enforce" else None
    seconds = None if keepalive is None else keepalive.detection_time
    same = (policy.mode, seconds)
    return make_event(EventName.POLICY_IN_FORCE, site=same, mode=policy.mode, detection_seconds=seconds, pid=pid)


def warnings_of(environ: Mapping[str, str], pid: int) -> list[Event]:
    """Makes an event of each variable that looks like a setting and is none.

    The value is told only of one that is near to a setting: another one may be a secret of somebody else's.
    """
    events = []
    for name, meant in unknown_variables(environ).items():
        text = "there is no such setting, so this variable does nothing."
        value = environ[name][:MAX_VALUE] if meant else None
        text += f" Was {meant} meant?" if meant else ""
        events.append(make_event(EventName.POLICY_WARNING, site=name, field=name, value=value, text=text, pid=pid))
    return events
