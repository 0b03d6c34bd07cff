"""How each event reads: with the numbers of its fields, and without those that are not known."""

import pytest

from sockguard._core.event_texts import WHY_CLOSED
from sockguard._core.events import EVENTS, EventName, kind_of, make_event

CONNECTION = {
    "local": "127.0.0.1:80",
    "remote": "192.0.2.1:50000",
    "fd": 7,
    "side": "server",
    "created_at": ("app.py:42 in serve", "app.py:60 in main"),
    "owner": "thread worker-1",
    "pid": 12,
}
WHO = "127.0.0.1:80 <- 192.0.2.1:50000 (fd 7, opened at app.py:42 in serve, owner: thread worker-1)"
MORE = "See more: sockguard report --pid 12"


def message(name: EventName, **fields: object) -> str:
    """The message of an event about that connection, with more fields."""
    known = {k: v for k, v in CONNECTION.items() if k in kind_of(name).fields}
    return make_event(name, **{**known, **fields}).message


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        (EventName.PEER_CLOSED, {"unread": 1}, f"The peer of {WHO} hung up; 1 byte is unread. {MORE}"),
        (EventName.PEER_CLOSED, {"unread": 0}, f"The peer of {WHO} hung up; nothing is unread. {MORE}"),
        (
            EventName.PEER_CLOSED,
            {"side": "client", "remote": None, "fd": None, "created_at": None, "owner": None, "pid": None},
            "The peer of 127.0.0.1:80 -> (not told) hung up; nothing is unread. See more: sockguard report --all",
        ),
        (
            EventName.LEAK_DETECTED,
            {
                "age_seconds": 12.345,
                "unread": 5,
                "cause": "unread",
                "remedy": "Read on.",
                "holders": ("pid 1", "pid 2"),
            },
            (
                f"Leaked connection {WHO}: its peer hung up 12.3 s ago, 5 bytes are unread, and it is still open "
                f"(unread). Read on. Held by: pid 1, pid 2. {MORE}"
            ),
        ),
        (
            EventName.LEAK_DETECTED,
            {"cause": "eof_ignored"},
            (
                f"Leaked connection {WHO}: its peer hung up an unknown time ago, nothing is unread, and it is still "
                f"open (eof_ignored). {MORE}"
            ),
        ),
        (
            EventName.LEAK_CLEARED,
            {"after_seconds": 3, "how": "closed"},
            f"No leak any more: {WHO}, after 3.0 s: its owner closed it.",
        ),
        (
            EventName.LEAK_CLEARED,
            {"how": "by a miracle"},
            f"No leak any more: {WHO}, after an unknown time: by a miracle.",
        ),
        (EventName.LEAK_CLEARED, {}, f"No leak any more: {WHO}, after an unknown time: it is gone."),
        (
            EventName.CONNECTION_CLOSED,
            {"reason": "half_closed", "setting": "fin_timeout", "limit": 60.0, "seconds": 61.26, "unread": 5}
            | {"step": "fin_sent", "mode": "enforce"},
            (
                f"Closed {WHO}: its peer had hung up and nothing had moved for 61.3 s. 5 bytes are unread. Our FIN was "
                f"sent; what has arrived can still be read. If that is wrong, change fin_timeout, now 60. {MORE}"
            ),
        ),
        (
            EventName.CONNECTION_CLOSED,
            {
                "reason": "idle",
                "setting": "idle_timeout",
                "limit": 2.5,
                "seconds": 3,
                "mode": "observe",
                "step": "reset",
            },
            (
                f"Would have closed {WHO}: nothing had moved either way for 3.0 s. If that is wrong, change "
                f"idle_timeout, now 2.5. {MORE}"
            ),
        ),
        (
            EventName.CONNECTION_CLOSED,
            {"reason": "pressure", "setting": "shed_dead_on_accept", "step": "shut_down", "mode": "enforce"},
            (
                f"Closed {WHO}: its peer had hung up before it was accepted, and descriptors or the accept queue ran "
                "short. It was shut down; its descriptor is free as soon as its owner closes it. If that is wrong, "
                f"change shed_dead_on_accept. {MORE}"
            ),
        ),
        (
            EventName.CONNECTION_CLOSED,
            {"reason": "odd", "seconds": 1, "step": "odd"},
            f"Closed {WHO}: odd, 1.0 s. {MORE}",
        ),
        (
            EventName.ACCEPT_QUEUE_STUCK,
            {"queued": 6, "backlog": 8, "queued_close_wait": 5, "seconds": 12, "fd_used": 1020, "fd_limit": 1024},
            (
                "Nothing was accepted on 127.0.0.1:80 for 12.0 s: 6 of 8 places in its queue are taken, 5 of them by "
                "peers that have hung up. 1020 of 1024 descriptors are in use. Find what blocks the accept loop; if "
                f"the descriptors are used up, end the leaks that hold them. {MORE}"
            ),
        ),
        (
            EventName.ACCEPT_QUEUE_STUCK,
            {"queued": 6, "backlog": 8, "seconds": 12},
            (
                "Nothing was accepted on 127.0.0.1:80 for 12.0 s: 6 of 8 places in its queue are taken, 0 of them by "
                "peers that have hung up. Find what blocks the accept loop; if the descriptors are used up, end the "
                f"leaks that hold them. {MORE}"
            ),
        ),
        (
            EventName.FD_LIMIT_NEAR,
            {"fd_used": 1000, "fd_limit": 1024, "n_dead": 300},
            (
                "1000 of 1024 descriptors are in use, 300 of them by connections whose peer is gone. Close those; if "
                f"there are none, raise the limit (ulimit -n). {MORE}"
            ),
        ),
        (
            EventName.LOOP_STALLED,
            {"seconds": 5.04, "thread": "MainThread"},
            (
                "The event loop of thread MainThread has not come round for 5.0 s. Until it does, its connections are "
                f"neither served nor closed: do such work in a thread (asyncio.to_thread). {MORE}"
            ),
        ),
        (
            EventName.HEARTBEAT_LOST,
            {"seconds": 31, "limit": 30},
            (
                f"The peer of {WHO} gave no sign of life for 31.0 s after it was asked; 30.0 s are allowed. If peers "
                f"are slower than that, raise heartbeat.timeout. {MORE}"
            ),
        ),
        (
            EventName.POLICY_WARNING,
            {"field": "idle_timeout", "value": 0.1, "text": "shorter than a tick."},
            "Policy idle_timeout=0.1: shorter than a tick.",
        ),
        (EventName.POLICY_WARNING, {"field": "SOCKGUARD_X", "text": "unknown."}, "Policy SOCKGUARD_X: unknown."),
        (
            EventName.POLICY_IN_FORCE,
            {"mode": "enforce", "detection_seconds": 120.0},
            "Guarded in mode enforce. A peer that vanishes is noticed by keepalive after 120.0 s of silence.",
        ),
        (
            EventName.POLICY_IN_FORCE,
            {"mode": "observe"},
            "Guarded in mode observe. A peer that vanishes is not noticed by keepalive, which the guard leaves alone.",
        ),
        (
            EventName.GUARD_FAILED,
            {"where": ("guard.py:1 in tick", "driver.py:2 in run"), "error": "ValueError: 3"},
            "guard.py:1 in tick raised ValueError: 3. The guard goes on. This is a bug of sockguard: please report it.",
        ),
        (
            EventName.GUARD_FAILED,
            {"where": "Listener a.b", "error": "KeyError: 'x'", "outcome": "It is called no more."},
            "Listener a.b raised KeyError: 'x'. It is called no more.",
        ),
        (
            EventName.GUARD_FAILED,
            {"error": "E: 1", "outcome": "It goes on."},
            "The guard raised E: 1. It goes on.",
        ),
    ],
)
def test_message(name: EventName, fields: dict[str, object], expected: str) -> None:
    """The message tells what happened with its numbers, what to do about it, and how to see more."""
    assert message(name, **fields) == expected


@pytest.mark.parametrize("reason", WHY_CLOSED)
def test_every_reason_has_its_words(reason: str) -> None:
    """No close is told without saying why, and for how long where that is the reason."""
    text = message(EventName.CONNECTION_CLOSED, reason=reason, seconds=7.77)
    assert reason not in text.replace("dead", "") or reason in {"idle", "heartbeat"}
    assert ("7.8 s" in text) == (reason != "pressure")


SAY_ALL = {EventName.LEAK_CLEARED, EventName.POLICY_WARNING, EventName.POLICY_IN_FORCE, EventName.GUARD_FAILED}


@pytest.mark.parametrize("kind", [kind for kind in EVENTS if "pid" in kind.fields], ids=lambda kind: kind.name)
def test_message_says_how_to_see_more(kind) -> None:
    """Where the report shows more of it, the message has the command, ready to be copied."""
    has_more = kind.name not in SAY_ALL
    assert make_event(kind.name, pid=12).message.endswith(MORE) == has_more
