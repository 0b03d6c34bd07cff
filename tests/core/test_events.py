"""The table of events, and how an event is made of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.decide import Reason
from sockguard._core.events import EVENTS, FIELDS, Event, EventName, kind_of, make_event
from sockguard._core.facts import Address, TcpState
from sockguard._core.inference import Side
from sockguard.errors import InternalError

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.text()),
    st.tuples(st.text(), st.text()),
)


def test_event_has_name_level_fields_site_and_message() -> None:
    """An event says what happened for people and programs, and which origin it shares with others."""
    event = make_event(EventName.LOOP_STALLED, site="a", seconds=5.25, thread="T", where=("app.py:12 in f",), pid=7)
    assert event == Event(
        EventName.LOOP_STALLED,
        "warning",
        {"seconds": 5.25, "thread": "T", "where": ("app.py:12 in f",), "pid": 7},
        "a",
    )
    assert event.message == (
        "The event loop of thread T has not come round for 5.2 s. It stands in app.py:12 in f. Until it does, its "
        "connections are neither served nor closed: do such work in a thread (asyncio.to_thread). "
        "See more: sockguard report --pid 7"
    )


def test_every_name_has_one_row_and_its_fields_are_described() -> None:
    """The table is total: each name once, and every field of a row stands in the list of fields."""
    assert [kind.name for kind in EVENTS] == list(EventName)
    assert [kind_of(name).name for name in EventName] == list(EventName)
    described = [field.name for field in FIELDS]
    assert described == sorted(set(described))
    assert {name for kind in EVENTS for name in kind.fields} | {"suppressed"} == set(described)


def test_reasons_of_the_decision_are_listed() -> None:
    """Each reason for which a connection is ended is named in the description of the field."""
    meaning = next(field.meaning for field in FIELDS if field.name == "reason")
    assert [reason for reason in Reason if f"`{reason.value}`" not in meaning] == []


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.name)
def test_what_is_not_given_is_none(kind) -> None:
    """An event always has all fields of its kind, and one of which nothing is known has a message still."""
    event = make_event(kind.name)
    assert event.fields == dict.fromkeys(kind.fields)
    assert event.message and event.site is None


@given(st.sampled_from(EVENTS), st.data())
def test_values_of_any_sort_make_a_line(kind, data: st.DataObject) -> None:
    """Whatever plain values the fields have, the message is one printable line and every text is one too."""
    numbers = {"seconds", "limit", "age_seconds", "after_seconds", "detection_seconds", "unread"}
    texts = {"holders", "created_at", "where"}
    fields = {
        name: data.draw(
            st.one_of(st.none(), st.floats())
            if name in numbers
            else st.one_of(st.none(), st.tuples(st.text()))
            if name in texts
            else PLAIN
        )
        for name in kind.fields
    }
    event = make_event(kind.name, **fields)
    assert event.message.isprintable()
    for value in event.fields.values():
        parts = value if isinstance(value, tuple) else (value,)
        assert all(part.isprintable() for part in parts if isinstance(part, str))


def test_addresses_and_enumerations_become_plain() -> None:
    """The values are of the language's own types, so that any output can write them."""
    event = make_event(
        EventName.PEER_CLOSED,
        local=Address("::1", 80),
        remote=Address("192.0.2.1", 5),
        side=Side.CLIENT,
        state=TcpState.CLOSE_WAIT,
        created_at=["a.py:1 in f"],
    )
    fields = event.fields
    assert [fields[name] for name in ("local", "remote", "side", "state", "created_at")] == [
        "[::1]:80", "192.0.2.1:5", "client", 8, ("a.py:1 in f",),
    ]  # fmt: skip
    assert type(fields["side"]) is str
    assert type(fields["state"]) is int


@pytest.mark.parametrize(
    "value", [b"GET /", bytearray(b"GET /"), memoryview(b"GET /"), object(), ("a", b"b"), {"a": 1}]
)
def test_bytes_and_objects_are_refused(value) -> None:
    """No event can carry payload: what is no plain value is a bug of ours, and its content is not told either."""
    with pytest.raises(InternalError) as raised:
        make_event(EventName.POLICY_WARNING, value=value)
    assert str(raised.value) == f"value is of type {type(value).__name__}, which no event may carry"


def test_unknown_fields_are_refused() -> None:
    """A field that is not in the row is a bug of ours."""
    with pytest.raises(InternalError, match=r"^fd_limit_near has no field cookie, local$"):
        make_event(EventName.FD_LIMIT_NEAR, cookie=1, local="a", pid=1)


def test_names_chosen_by_others_forge_no_line() -> None:
    """A line break in the name of a task does not begin a new line of the log."""
    event = make_event(
        EventName.PEER_CLOSED, owner="task a\n2026 ERROR forged\x1b[0m é", created_at=("a\tb.py:1 in f",)
    )
    assert event.fields["owner"] == r"task a\n2026 ERROR forged\x1b[0m é"
    assert event.fields["created_at"] == (r"a\tb.py:1 in f",)
    assert "\n" not in event.message


def test_numbers_pass_as_they_are() -> None:
    """A number is not rounded in the fields, only in the message."""
    event = make_event(EventName.HEARTBEAT_LOST, seconds=math.pi, limit=True)
    assert (event.fields["seconds"], event.fields["limit"]) == (math.pi, True)
