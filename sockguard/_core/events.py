"""What can happen, and how it is told: one table of events.

An event is told to people (the sentence in `message`), to programs (`fields`) and never
holds a byte of what a connection carried. `EVENTS` is the table; docs/reference/events.md
is made from it.
"""

from collections.abc import Callable, Hashable, Mapping
from enum import Enum, StrEnum
from typing import Any, Literal, NamedTuple

from sockguard._core.event_texts import (
    HOW_CLEARED,
    STEPS,
    WHY_CLOSED,
    accept_queue_stuck,
    connection_closed,
    fd_limit_near,
    guard_failed,
    heartbeat_lost,
    leak_cleared,
    leak_detected,
    loop_stalled,
    peer_closed,
    policy_in_force,
    policy_warning,
)
from sockguard._core.facts import Address
from sockguard.errors import InternalError

__all__ = ["EVENTS", "FIELDS", "Event", "EventKind", "EventName", "Field", "Level", "kind_of", "make_event"]

Level = Literal["debug", "info", "warning", "error"]


class EventName(StrEnum):
    """The names of the events; stable, as alerts are built on them."""

    PEER_CLOSED = "peer_closed"
    LEAK_DETECTED = "leak_detected"
    LEAK_CLEARED = "leak_cleared"
    CONNECTION_CLOSED = "connection_closed"
    ACCEPT_QUEUE_STUCK = "accept_queue_stuck"
    FD_LIMIT_NEAR = "fd_limit_near"
    LOOP_STALLED = "loop_stalled"
    HEARTBEAT_LOST = "heartbeat_lost"
    POLICY_WARNING = "policy_warning"
    POLICY_IN_FORCE = "policy_in_force"
    GUARD_FAILED = "guard_failed"


class Event(NamedTuple):
    """One thing that happened."""

    name: EventName
    level: Level
    fields: Mapping[str, object]
    """Every field of its kind, as plain values; None where it is not known. `suppressed` comes
    with an event that also stands for others, which were not told."""
    site: Hashable
    """What the events of one origin have in common, such as the place where the connections were opened."""

    @property
    def message(self) -> str:
        """One line for people: what happened, with numbers, what to do, and how to see more. Made when asked for."""
        text = kind_of(self.name).message(self.fields)
        n_more = self.fields.get("suppressed")
        return _one_line(f"{text} ({n_more} more like it were not told.)" if n_more else text)


class Field(NamedTuple):
    """One field of events."""

    name: str
    unit: str
    meaning: str


FIELDS: tuple[Field, ...] = (
    Field("after_seconds", "s", "since the leak was told of"),
    Field("age_seconds", "s", "since the peer was last heard of"),
    Field("backlog", "connections", "how many may wait to be accepted"),
    Field("cause", "", "[why](causes.md) it leaks"),
    Field("cookie", "", "the kernel's number of the socket (`SO_COOKIE`)"),
    Field("created_at", "list of `file:line in function`", "where the program opened it, innermost call first"),
    Field("detection_seconds", "s", "of silence after which keepalive gives a peer up; None where it is not set"),
    Field("error", "", "the exception, by type and text"),
    Field("fd", "", "its descriptor at that moment"),
    Field("fd_limit", "descriptors", "how many the process may have (`ulimit -n`)"),
    Field("fd_used", "descriptors", "how many it has"),
    Field("field", "", "the variable"),
    Field("holders", "list", "all processes that hold it, if several do"),
    Field("how", "", f"one of {', '.join(f'`{how}`' for how in HOW_CLEARED)}"),
    Field("limit", "s, or bytes/s for `receive_rate`", "the value of that setting"),
    Field("local", "`host:port`", "the address of our end, or of the listener"),
    Field("mode", "", "`enforce`; or `observe`, where nothing was done and this is what would have been"),
    Field("n_dead", "connections", "how many of the descriptors are connections whose peer is gone"),
    Field("outcome", "", "what this means for the program"),
    Field("owner", "", "who works on it: which event loop, task or thread"),
    Field("pid", "", "the process"),
    Field("queued", "connections", "how many wait to be accepted"),
    Field("queued_close_wait", "connections", "how many of them have hung up already"),
    Field("reason", "", f"one of {', '.join(f'`{reason}`' for reason in WHY_CLOSED)}"),
    Field("remedy", "", "what to do about it"),
    Field("remote", "`host:port`", "the address of the peer"),
    Field("seconds", "s", "for how long it had lasted; of `failed` and `left_open`, how old the connection was"),
    Field("setting", "", "the field of the policy that decided"),
    Field("side", "", "`server`: they connected to us; `client`: we connected"),
    Field("state", "", "the TCP state"),
    Field("step", "", f"what was done, one of {', '.join(f'`{step}`' for step in STEPS)}"),
    Field("suppressed", "events", "how many more of its kind and origin it stands for; absent if none"),
    Field("text", "", "what is wrong with it"),
    Field("thread", "", "the thread in which the event loop runs"),
    Field("unread", "bytes", "arrived and not read, without the FIN"),
    Field("value", "", "what it was given, if it was near to a setting"),
    Field("where", "list of `file:line in function`", "where it stands, innermost call first; or which part it is"),
)

CONNECTION = ("local", "remote", "fd", "cookie", "side", "created_at", "owner", "pid")
"""The fields of every event about one connection."""


class EventKind(NamedTuple):
    """One row of the table of events."""

    name: EventName
    level: Level
    told: str
    """When it is told."""
    fields: tuple[str, ...]
    message: Callable[[Mapping[str, Any]], str]
    level_after: Level | None = None
    """The level after the first of one site, if it is another."""


EVENTS: tuple[EventKind, ...] = (
    EventKind(
        EventName.PEER_CLOSED,
        "debug",
        "A peer hung up and the program has not closed the connection yet. Most often it does so in a moment.",
        (*CONNECTION, "unread", "state"),
        peer_closed,
    ),
    EventKind(
        EventName.LEAK_DETECTED,
        "warning",
        "A connection has stood still for `leak_after` seconds after its peer hung up.",
        (*CONNECTION, "cause", "age_seconds", "state", "unread", "remedy", "holders"),
        leak_detected,
    ),
    EventKind(
        EventName.LEAK_CLEARED,
        "info",
        "A connection that was told as leaked is closed, or moves again.",
        (*CONNECTION, "after_seconds", "how"),
        leak_cleared,
    ),
    EventKind(
        EventName.CONNECTION_CLOSED,
        "warning",
        "The guard or a wrapper ended a connection, or in `observe` mode would have. The first one of a site is a "
        "warning, but for `failed` and `left_open`.",
        (*CONNECTION, "reason", "setting", "limit", "seconds", "error", "unread", "step", "mode"),
        connection_closed,
        "info",
    ),
    EventKind(
        EventName.ACCEPT_QUEUE_STUCK,
        "warning",
        "Connections wait to be accepted, and none has been for a while.",
        ("local", "queued", "backlog", "queued_close_wait", "seconds", "fd_used", "fd_limit", "pid"),
        accept_queue_stuck,
    ),
    EventKind(
        EventName.FD_LIMIT_NEAR,
        "warning",
        "The process is about to run out of descriptors, after which it can accept and open nothing.",
        ("fd_used", "fd_limit", "n_dead", "pid"),
        fd_limit_near,
    ),
    EventKind(
        EventName.LOOP_STALLED,
        "warning",
        "An event loop has not come round for a while: something blocks it.",
        ("seconds", "thread", "where", "pid"),
        loop_stalled,
    ),
    EventKind(
        EventName.HEARTBEAT_LOST,
        "warning",
        "A peer was asked for a sign of life and gave none in time.",
        (*CONNECTION, "seconds", "limit", "mode"),
        heartbeat_lost,
    ),
    EventKind(
        EventName.POLICY_WARNING,
        "warning",
        "A variable begins with `SOCKGUARD_` and is no setting. Once in a process.",
        ("field", "value", "text", "pid"),
        policy_warning,
    ),
    EventKind(
        EventName.POLICY_IN_FORCE,
        "debug",
        "A guard begins, or `install()` gives another policy to one that a wrapper has made.",
        ("mode", "detection_seconds", "pid"),
        policy_in_force,
    ),
    EventKind(
        EventName.GUARD_FAILED,
        "error",
        "The guard, one of its outputs or a listener raised an exception. The program is not affected by it.",
        ("error", "where", "outcome", "pid"),
        guard_failed,
    ),
)

_KINDS = {kind.name: kind for kind in EVENTS}


def kind_of(name: EventName) -> EventKind:
    """Gives the row of the table."""
    return _KINDS[name]


def make_event(name: EventName, *, site: Hashable = None, **fields: object) -> Event:
    """Makes an event of the table.

    Args:
        name: Which.
        site: What events of one origin have in common; the limit is on each origin.
        fields: Those of its kind, as None, bool, numbers, text or sequences of text; what is not
            given is None. Addresses and enumerations become text.

    Raises:
        InternalError: A field is not of this kind, or no plain value; bytes above all.
    """
    kind = _KINDS[name]
    if unknown := fields.keys() - set(kind.fields):
        msg = f"{name} has no field {', '.join(sorted(unknown))}"
        raise InternalError(msg)
    plain = {field: _plain(field, fields.get(field)) for field in kind.fields}
    return Event(kind.name, kind.level, plain, site)


_PLAIN = {type(None), bool, int, float}


def _plain(field: str, value: object) -> object:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, int | float):
        return value
    if isinstance(value, str | Address):
        return _one_line(str(value))
    if isinstance(value, tuple | list) and all(isinstance(part, str) for part in value):
        return tuple(_one_line(part) for part in value)
    msg = f"{field} is of type {type(value).__name__}, which no event may carry"
    raise InternalError(msg)


def _one_line(text: str) -> str:
    """Keeps names that somebody else chose, such as a task's, from forging lines of a log."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
