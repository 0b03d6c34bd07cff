"""How does each event read to people? One sentence or three: what happened, what to do, how to see more.

A field may be None: what is not known is left out or said to be unknown.
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "accept_queue_stuck",
    "connection_closed",
    "fd_limit_near",
    "guard_failed",
    "heartbeat_lost",
    "leak_cleared",
    "leak_detected",
    "loop_stalled",
    "peer_closed",
    "policy_in_force",
    "policy_warning",
]

Fields = Mapping[str, Any]

WHY_CLOSED = {
    "half_closed": "its peer had hung up and nothing had moved for {seconds}",
    "dead": "it had been over for {seconds} and was still open",
    "idle": "nothing had moved either way for {seconds}",
    "read_idle": "its peer had sent nothing for {seconds}",
    "write_stalled": "its peer had acknowledged nothing of what waits to be sent for {seconds}",
    "first_byte": "its peer had sent nothing in the {seconds} since it connected",
    "receive_rate": "its peer had sent too slowly for {seconds}",
    "lifetime": "it was {seconds} old",
    "deadline": "a request on it took {seconds}, longer than the program allows",
    "heartbeat": "its peer had not answered a heartbeat for {seconds}",
    "failed": "a call on it met an error {seconds} after it was opened, and it was over",
    "left_open": "its handler ended {seconds} after it was opened and had not closed it",
    "close_stalled": "it was to be closed, and nothing had left it for {seconds}",
    "pressure": "its peer had hung up before it was accepted, and descriptors or the accept queue ran short",
}
"""By reason, `{seconds}` standing for the span."""

STEPS = {
    "fin_sent": "Our FIN was sent; what has arrived can still be read.",
    "owner_asked": "Its owner was told to close it.",
    "shut_down": "It was shut down; its descriptor is free as soon as its owner closes it.",
    "closed": "It was closed, and its descriptor is free.",
    "reset": "It was reset.",
}

HOW_CLEARED = {
    "closed": "its owner closed it",
    "moved": "it moves again",
    "ended_by_guard": "the guard ended it",
}


def peer_closed(f: Fields) -> str:
    """Tells that a peer hung up."""
    return f"The peer of {_connection(f)} hung up; {_unread(f)}.{_see_more(f)}"


def leak_detected(f: Fields) -> str:
    """Tells of a leak, its cause and its cure."""
    holders = f" Held by: {', '.join(f['holders'])}." if f["holders"] else ""
    remedy = f" {f['remedy']}" if f["remedy"] else ""
    return (
        f"Leaked connection {_connection(f)}: its peer hung up {_seconds(f['age_seconds'])} ago, {_unread(f)}, "
        f"and it is still open ({f['cause']}).{remedy}{holders}{_see_more(f)}"
    )


def leak_cleared(f: Fields) -> str:
    """Takes back what was told of a leak."""
    how = HOW_CLEARED.get(f["how"], f["how"] or "it is gone")
    return f"No leak any more: {_connection(f)}, after {_seconds(f['after_seconds'])}: {how}."


def connection_closed(f: Fields) -> str:
    """Tells why the guard ended a connection, and which setting to change if that was wrong."""
    verb, step = ("Would have closed", "") if f["mode"] == "observe" else ("Closed", STEPS.get(f["step"], ""))
    why = WHY_CLOSED.get(f["reason"], f"{f['reason']}, {{seconds}}").replace("{seconds}", _seconds(f["seconds"]))
    why += f" ({f['error']})" if f["error"] else ""
    limit = "" if f["limit"] is None else f", now {f['limit']:g}"
    change = f"If that is wrong, change {f['setting']}{limit}." if f["setting"] else ""
    unread = f"{_unread(f).capitalize()}." if f["unread"] else ""
    return " ".join(filter(None, (f"{verb} {_connection(f)}: {why}.", unread, step, change))) + _see_more(f)


def describe_end(reason: str | None, setting: str | None, limit: float | None, seconds: float | None) -> str:
    """Says why the guard ended a connection, for the exception that its owner gets."""
    why = WHY_CLOSED[reason or "dead"].replace("{seconds}", _seconds(seconds))
    value = "" if limit is None else f"={limit:g}"
    return f"{why} ({setting}{value})" if setting else why


def accept_queue_stuck(f: Fields) -> str:
    """Tells of an accept queue that nobody works off."""
    used, limit = f["fd_used"], f["fd_limit"]
    descriptors = f" {used} of {limit} descriptors are in use." if used is not None and limit else ""
    return (
        f"Nothing was accepted on {f['local']} for {_seconds(f['seconds'])}: {f['queued']} of {f['backlog']} places in "
        f"its queue are taken, {f['queued_close_wait'] or 0} of them by peers that have hung up.{descriptors} "
        "Find what blocks the accept loop; if the descriptors are used up, end the leaks that hold them."
        f"{_see_more(f)}"
    )


def fd_limit_near(f: Fields) -> str:
    """Tells that descriptors run short."""
    return (
        f"{f['fd_used']} of {f['fd_limit']} descriptors are in use, {f['n_dead'] or 0} of them by connections whose "
        f"peer is gone. Close those; if there are none, raise the limit (ulimit -n).{_see_more(f)}"
    )


def loop_stalled(f: Fields) -> str:
    """Tells which line holds an event loop up."""
    where = f" It stands in {f['where'][0]}." if f["where"] else ""
    return (
        f"The event loop of thread {f['thread']} has not come round for {_seconds(f['seconds'])}.{where} "
        f"Until it does, its connections are neither served nor closed: do such work in a thread "
        f"(asyncio.to_thread).{_see_more(f)}"
    )


def heartbeat_lost(f: Fields) -> str:
    """Tells that a peer did not answer a heartbeat."""
    return (
        f"The peer of {_connection(f)} gave no sign of life for {_seconds(f['seconds'])} after it was asked; "
        f"{_seconds(f['limit'])} are allowed. If peers are slower than that, raise heartbeat.timeout.{_see_more(f)}"
    )


def policy_warning(f: Fields) -> str:
    """Tells what is odd about a policy."""
    given = "" if f["value"] is None else f"={f['value']}"
    return f"Policy {f['field']}{given}: {f['text']}"


def policy_in_force(f: Fields) -> str:
    """Tells what a policy amounts to."""
    seconds = f["detection_seconds"]
    detected = f"after {_seconds(seconds)} of silence" if seconds is not None else "which the guard leaves alone"
    by = "is noticed by keepalive " if seconds is not None else "is not noticed by keepalive, "
    return f"Guarded in mode {f['mode']}. A peer that vanishes {by}{detected}."


def guard_failed(f: Fields) -> str:
    """Tells that some part of us, or a listener, raised an exception."""
    where = f["where"][0] if isinstance(f["where"], tuple) and f["where"] else f["where"] or "The guard"
    outcome = f["outcome"] or "The guard goes on. This is a bug of sockguard: please report it."
    return f"{where} raised {f['error']}. {outcome}"


def _connection(f: Fields) -> str:
    arrow = "->" if f["side"] == "client" else "<-"
    details = [
        "" if f["fd"] is None else f"fd {f['fd']}",
        f"opened at {f['created_at'][0]}" if f["created_at"] else "",
        f"owner: {f['owner']}" if f["owner"] else "",
    ]
    told = ", ".join(filter(None, details))
    return f"{f['local'] or '(unnamed)'} {arrow} {f['remote'] or '(not told)'}" + (f" ({told})" if told else "")


def _unread(f: Fields) -> str:
    n = f["unread"]
    return f"{n} byte{' is' if n == 1 else 's are'} unread" if n else "nothing is unread"


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.1f} s"


def _see_more(f: Fields) -> str:
    return f" See more: sockguard report --pid {f['pid']}" if f["pid"] else " See more: sockguard report --all"
