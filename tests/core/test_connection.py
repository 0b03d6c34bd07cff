"""What looks at a connection tell of its past: never less movement than there was."""

import pytest
from hypothesis import given

from sockguard._core.connection import Activity, Connection, Step, begin, observe
from strategies import Moves, connections, looked_at_again, moves_within

ESTABLISHED, CLOSE, CLOSE_WAIT, LAST_ACK = 1, 7, 8, 9
OPENED, FIRST, SECOND = 100.0, 110.0, 130.0
LOOK = Activity(ESTABLISHED, received=500, acked=80, unread=100, unsent=20, since_received=4.0, since_heard=2.0)
FRESH = LOOK._replace(received=0, acked=0, unread=0, unsent=0)


def first_look(activity: Activity = LOOK, *, now: float = FIRST) -> Connection:
    return begin(8202, activity, opened_at=OPENED, now=now, is_server=True)


def second_look(after: Activity, before: Activity = LOOK) -> Connection:
    return observe(first_look(before), after, SECOND)


def test_first_look_keeps_what_the_kernel_says() -> None:
    """Counts and state are those of the look, and nothing has been done about it."""
    c = begin(8202, LOOK._replace(eof_unread=True), opened_at=OPENED, now=FIRST, is_server=False, has_loop=True)
    assert (c.cookie, c.is_server, c.has_loop, c.opened_at, c.looked_at) == (8202, False, True, OPENED, FIRST)
    assert (c.state, c.received, c.acked, c.unread, c.unsent, c.eof_unread) == (ESTABLISHED, 500, 80, 100, 20, True)
    assert (c.trickle, c.step, c.stepped_at) == (None, Step.NONE, 0.0)


@pytest.mark.parametrize(
    ("activity", "moved_at", "is_quiet"),
    [
        pytest.param(FRESH, OPENED, True, id="nothing moved"),
        pytest.param(FRESH._replace(received=1), FIRST, False, id="received"),
        pytest.param(FRESH._replace(acked=1), FIRST, False, id="acknowledged"),
    ],
)
def test_what_moved_before_the_first_look_may_have_moved_right_now(
    activity: Activity, moved_at: float, is_quiet: bool
) -> None:
    """When is not known, so it is taken for the latest that it can be."""
    connection = first_look(activity)
    assert (connection.moved_at, connection.is_quiet) == (moved_at, is_quiet)


@pytest.mark.parametrize(
    ("activity", "received_at"),
    [
        pytest.param(LOOK, FIRST - 4.0, id="by the kernel's stamp"),
        pytest.param(FRESH, OPENED, id="nothing: the stamp says nothing"),
        pytest.param(LOOK._replace(since_received=99.0), OPENED, id="not before it was opened"),
    ],
)
def test_when_the_last_byte_arrived_before_the_first_look(activity: Activity, received_at: float) -> None:
    """The kernel stamps arrivals, so this one is known."""
    assert first_look(activity).received_at == received_at


@pytest.mark.parametrize(
    ("state", "is_hung_up"), [(ESTABLISHED, False), (CLOSE_WAIT, True), (CLOSE, True), (LAST_ACK, False)]
)
def test_hang_up_counts_from_the_look_that_saw_it(state: int, is_hung_up: bool) -> None:
    """Be it the first look or a later one; it says when a connection was over, too."""
    for connection, now in (
        (first_look(LOOK._replace(state=state)), FIRST),
        (second_look(LOOK._replace(state=state)), SECOND),
    ):
        assert (connection.is_hung_up, connection.hung_up_at) == (is_hung_up, now if is_hung_up else None)


def test_hang_up_is_remembered() -> None:
    """Neither a later look nor a FIN of ours (LAST_ACK) moves it or takes it back."""
    connection = second_look(LOOK._replace(state=LAST_ACK), LOOK._replace(state=CLOSE_WAIT))
    assert (connection.is_hung_up, connection.hung_up_at) == (True, FIRST)


@pytest.mark.parametrize(
    ("change", "moved_at", "received_at", "is_quiet"),
    [
        pytest.param({}, FIRST, 106.0, True, id="nothing"),
        pytest.param({"unsent": 50}, FIRST, 106.0, True, id="queued: it has moved nowhere yet"),
        pytest.param({"unread": 40}, SECOND, 106.0, False, id="read: perhaps just now"),
        pytest.param({"acked": 90}, SECOND - 2.0, 106.0, False, id="acknowledged: not after the peer was last heard"),
        pytest.param({"acked": 90, "since_heard": 25.0}, FIRST, 106.0, False, id="never earlier than was known"),
        pytest.param({"acked": 90, "unread": 40}, SECOND, 106.0, False, id="read and acknowledged"),
        pytest.param({"received": 600, "unread": 200}, FIRST, SECOND - 4.0, False, id="arrived, and not read"),
        pytest.param({"received": 600, "unread": 100}, SECOND, SECOND - 4.0, False, id="arrived and read"),
        pytest.param({"received": 501}, SECOND, SECOND - 4.0, False, id="FIN: it counts as received, not as unread"),
        pytest.param({"received": 600, "since_received": 99.0}, SECOND, 106.0, False, id="stamp older than known"),
    ],
)
def test_progress_between_two_looks(
    change: dict[str, object], moved_at: float, received_at: float, is_quiet: bool
) -> None:
    """Outwards it is what the peer acknowledged, inwards what the application read."""
    c = second_look(LOOK._replace(**change))
    assert (c.moved_at, c.received_at, c.is_quiet) == (moved_at, received_at, is_quiet)
    assert (c.looked_at, c.opened_at) == (SECOND, OPENED)


@pytest.mark.parametrize(
    ("before", "change", "stalled_at"),
    [
        pytest.param(20, {"unsent": 20}, FIRST, id="queued all the time"),
        pytest.param(20, {"unsent": 70}, FIRST, id="more is queued"),
        pytest.param(
            20, {"unsent": 10, "acked": 90}, SECOND - 2.0, id="acknowledged: not after the peer was last heard"
        ),
        pytest.param(20, {"unsent": 10, "acked": 90, "since_heard": 25.0}, FIRST, id="never earlier than was known"),
        pytest.param(
            20, {"unsent": 20, "acked": 100}, SECOND, id="all acknowledged, and as much is queued: since when?"
        ),
        pytest.param(0, {"unsent": 20}, SECOND, id="queued since"),
        pytest.param(20, {"unsent": 0, "acked": 100}, SECOND, id="nothing is queued"),
    ],
)
def test_stall_counts_while_data_is_queued_and_nothing_acknowledged(
    before: int, change: dict[str, int], stalled_at: float
) -> None:
    """A peer that takes a single byte is slow, not stalled."""
    assert second_look(LOOK._replace(**change), LOOK._replace(unsent=before)).stalled_at == stalled_at


@pytest.mark.parametrize(
    ("before", "after", "unread_at"),
    [(0, 0, OPENED), (0, 9, SECOND), (9, 9, SECOND), (9, 0, SECOND)],
)
def test_until_when_bytes_were_unread(before: int, after: int, unread_at: float) -> None:
    """As long as our window may have been full, the peer's silence is no sign."""
    first = LOOK._replace(unread=before)
    assert first_look(first).unread_at == (FIRST if before else OPENED)
    assert second_look(LOOK._replace(unread=after), first).unread_at == unread_at


def test_bytes_that_come_without_an_answer_are_marked() -> None:
    """From the first look that saw some, whatever comes later, until one of ours is acknowledged."""
    c = first_look(FRESH)
    marks = []
    for seconds, arrived, acked in [
        (1, 0, 0),
        (1, 10, 0),
        (1, 0, 0),
        (1, 5, 0),
        (1, 5, 1),
        (1, 0, 0),
        (1, 7, 0),
        (1, 0, 1),
    ]:
        c = looked_at_again(c._replace(unsent=9), Moves(float(seconds), arrived=arrived, acked=acked))
        marks.append(c.trickle)
    began, again = (FIRST + 2, 10), (FIRST + 7, 27)
    assert marks == [None, began, began, began, None, None, again, None]


@pytest.mark.slow
@given(connections(), moves_within())
def test_instants_never_go_back(before: Connection, moves: Moves) -> None:
    """What is known of the past is only ever moved towards now, and never beyond."""
    after = looked_at_again(before, moves)
    for name in ("moved_at", "received_at", "stalled_at", "unread_at", "looked_at"):
        assert getattr(before, name) <= getattr(after, name) <= after.looked_at, name


@pytest.mark.slow
@given(connections(), moves_within().map(lambda moves: Moves(moves.seconds)))
def test_look_at_what_stands_still_changes_no_history(before: Connection, moves: Moves) -> None:
    """Looking often or rarely makes no difference: only that it was looked at, and is quiet, is new."""
    after = looked_at_again(before, moves._replace(eof_unread=before.eof_unread))
    expected = before._replace(looked_at=after.looked_at, is_quiet=True)
    if not before.unsent:
        expected = expected._replace(stalled_at=after.looked_at)
    if before.unread:
        expected = expected._replace(unread_at=after.looked_at)
    assert after == expected


@pytest.mark.slow
@given(connections(), moves_within())
def test_movement_is_never_missed(before: Connection, moves: Moves) -> None:
    """A connection is quiet only if neither a byte arrived nor was read nor acknowledged."""
    after = looked_at_again(before, moves)
    is_same = (after.received, after.unread, after.acked) == (before.received, before.unread, before.acked)
    assert after.is_quiet == is_same
