"""Two looks, some time apart: who is new or moved is left out, and who stood still is known to have done so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.facts import Address, Holder, Snapshot, SocketFacts, TcpInfo, Unseen
from sockguard._core.inference import Age, AgeKind, age_of, made_progress
from sockguard._core.leaks import find_leaks
from sockguard._core.two_looks import keep_still
from strategies import snapshots

ESTABLISHED, CLOSE, CLOSE_WAIT, LISTEN = 1, 7, 8, 10
SERVED, REMOTE = Address("127.0.0.1", 80), Address("192.0.2.1", 50000)
QUIET = TcpInfo(CLOSE_WAIT, 0, 0, 0, 0, 60.0, 30.0, 30.0, 0.001, 0, 1, 1, 1, 0, 0, 0)
"""30 s ago the peer hung up; nothing was ever sent."""
FACTS = SocketFacts(CLOSE_WAIT, SERVED, REMOTE, 100, 8202, 0, 6, 4, 0, 0, 0, QUIET)
AGELESS = FACTS._replace(info=None, cookie=None)
"""As a row of /proc/net/tcp."""


def look(*sockets: SocketFacts, **fields: object) -> Snapshot:
    return Snapshot(0.0, sockets, {}, {}, {})._replace(**fields)  # type: ignore[arg-type]


def kept(before: SocketFacts, after: SocketFacts, seconds: float = 2.5) -> tuple[SocketFacts, ...]:
    return keep_still(look(before), look(after), seconds).sockets


def with_info(facts: SocketFacts, **info: object) -> SocketFacts:
    return facts._replace(info=facts.info._replace(**info))  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("facts", [FACTS, AGELESS], ids=["netlink", "/proc/net/tcp"])
def test_who_stood_still_stays_and_carries_the_time_between_the_looks(facts: SocketFacts) -> None:
    """The connection is kept as the second look saw it, marked with the seconds that it was watched."""
    assert kept(facts, facts) == (facts._replace(still_for=2.5),)


def test_second_look_is_what_is_told() -> None:
    """Of a connection that stays, what the later look saw counts: arrivals and silence grow, and are no progress."""
    later = with_info(FACTS._replace(recv_queue=9), last_ack_recv=32.5, bytes_received=4)
    assert kept(FACTS, later) == (later._replace(still_for=2.5),)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(FACTS._replace(recv_queue=5), id="the application read"),
        pytest.param(FACTS._replace(send_queue=3), id="the peer acknowledged"),
        pytest.param(with_info(FACTS, bytes_acked=1), id="acknowledged and refilled"),
        pytest.param(with_info(FACTS, bytes_received=2), id="read and refilled"),
    ],
)
def test_who_moved_is_left_out(after: SocketFacts) -> None:
    """Bytes that moved between the looks, in either direction, show a connection that is alive."""
    assert kept(FACTS, after) == ()


@pytest.mark.parametrize(("queue", "stays"), [(5, False), (6, True), (7, True)])
def test_without_tcp_info_the_queues_tell_who_moved(queue: int, stays: bool) -> None:
    """A row of /proc/net/tcp that shrinks has moved; one that stays, or grows unread, stands still."""
    assert bool(kept(AGELESS, AGELESS._replace(recv_queue=queue))) is stays


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(FACTS._replace(local=Address("127.0.0.1", 81)), id="another local address"),
        pytest.param(FACTS._replace(remote=Address("192.0.2.1", 50001)), id="another peer"),
        pytest.param(FACTS._replace(inode=101), id="another descriptor"),
        pytest.param(FACTS._replace(inode=0), id="not accepted yet"),
        pytest.param(FACTS._replace(netns=7), id="another network namespace"),
        pytest.param(FACTS._replace(state=ESTABLISHED), id="the peer had not hung up yet"),
        pytest.param(FACTS._replace(state=LISTEN), id="no connection then"),
        pytest.param(FACTS._replace(cookie=8203), id="another connection between the same ends"),
        pytest.param(FACTS._replace(cookie=None), id="not certain to be the same: no cookie then"),
    ],
)
def test_who_is_new_is_left_out(before: SocketFacts) -> None:
    """What was not there, hung up, at the first look was not watched: nothing is known of its standstill."""
    assert kept(before, FACTS) == ()


def test_who_is_gone_is_not_brought_back() -> None:
    """A connection that only the first look saw has ended meanwhile."""
    assert keep_still(look(FACTS), look(), 2.5).sockets == ()


def test_among_many_only_those_that_stood_still_remain() -> None:
    """Each is judged by its own first look, and the order of the second one stays."""
    one, two, three, new = (FACTS._replace(inode=inode, cookie=inode) for inode in (1, 2, 3, 4))
    moved = two._replace(recv_queue=0)
    found = keep_still(look(three, two, one), look(one, moved, new, three), 9.0).sockets
    assert found == (one._replace(still_for=9.0), three._replace(still_for=9.0))


@pytest.mark.parametrize("state", [state for state in range(14) if state not in (CLOSE_WAIT, CLOSE)])
def test_all_other_states_are_not_touched(state: int) -> None:
    """Listeners and the rest are no question of moving: new or not, they stay without a mark."""
    facts = FACTS._replace(state=state)
    assert keep_still(look(), look(facts), 2.5).sockets == (facts,)
    assert kept(facts._replace(recv_queue=99), facts) == (facts,)


def test_dead_ones_are_watched_likewise() -> None:
    """A descriptor that was dead at both looks carries the time; one that died, or was read, meanwhile is left out."""
    dead = FACTS._replace(state=CLOSE, remote=None)
    assert kept(dead, dead) == (dead._replace(still_for=2.5),)
    assert kept(FACTS, dead) == ()
    assert kept(dead._replace(recv_queue=7), dead) == ()


def test_all_else_of_the_second_look_stays() -> None:
    """Time, holders, parents and what was not seen are those of the second look."""
    fields = {
        "at": 7.0,
        "holders": {100: (Holder(5, 3, "python3"),)},
        "parents": {5: 1},
        "unseen": (Unseen(None, "ages", "root"),),
        "owners_complete": False,
    }
    second = look(FACTS, **fields)
    assert keep_still(look(FACTS), second, 2.5) == second._replace(sockets=(FACTS._replace(still_for=2.5),))


# Together with ages


def test_watching_is_the_age_where_the_kernel_tells_none() -> None:
    """Without TCP_INFO the time between the looks is the least that a connection has stood still."""
    (facts,) = kept(AGELESS, AGELESS, 12.0)
    assert [age_of(f) for f in (AGELESS, facts)] == [Age(None, AgeKind.UNKNOWN), Age(12.0, AgeKind.AT_LEAST)]


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        pytest.param(4.0, Age(5.0, AgeKind.AT_LEAST), id="probe answered before the first look"),
        pytest.param(60.0, Age(60.0, AgeKind.AT_LEAST), id="watched for longer than since the last answer"),
    ],
)
def test_answered_keepalive_probes_do_not_hide_standstill(seconds: float, age: Age) -> None:
    """Probes renew the peer's last packet and are no progress: who was watched longer is at least that old."""
    before = FACTS._replace(timer=2, info=QUIET._replace(last_ack_recv=8.0))
    after = with_info(before, last_ack_recv=5.0, segs_in=9, segs_out=9)
    (facts,) = kept(before, after, seconds)
    assert age_of(facts) == age


@pytest.mark.parametrize(("seconds", "is_leak"), [(9.9, False), (10.0, True)])
def test_ageless_connection_is_a_leak_once_it_was_watched_for_long_enough(seconds: float, is_leak: bool) -> None:
    """The mark is what `find_leaks` holds against its threshold."""
    second = keep_still(look(AGELESS), look(AGELESS), seconds)
    assert bool(find_leaks(second, min_age=10.0)) is is_leak


# Laws

WATCHED = st.floats(0, 1e6)


def distinct(snapshot: Snapshot) -> Snapshot:
    """Drops what no kernel shows: two connections with the same ends and without a descriptor."""
    sockets = {facts.identity: facts for facts in snapshot.sockets}
    return snapshot._replace(sockets=tuple(sockets.values()))


@pytest.mark.slow
@given(snapshots().map(distinct), WATCHED)
def test_if_nothing_happened_nothing_is_left_out(snapshot: Snapshot, seconds: float) -> None:
    """Two equal looks keep every socket, and mark those that are hung up or dead and no others."""
    found = keep_still(snapshot, snapshot, seconds)
    assert [facts._replace(still_for=None) for facts in found.sockets] == list(snapshot.sockets)
    assert [facts.still_for for facts in found.sockets] == [
        seconds if facts.state in (CLOSE_WAIT, CLOSE) else None for facts in snapshot.sockets
    ]


@st.composite
def two_looks(draw: st.DrawFn) -> tuple[Snapshot, Snapshot]:
    """Makes two looks: some sockets stay as they are, some change in one way, some go, some come."""
    first, other = draw(snapshots().map(distinct)), draw(snapshots())
    changes: dict[str, st.SearchStrategy[object]] = {
        "recv_queue": st.integers(0, 30),
        "send_queue": st.integers(0, 30),
        "cookie": st.none() | st.integers(0, 9),
        "state": st.sampled_from([ESTABLISHED, CLOSE, CLOSE_WAIT]),
        "inode": st.sampled_from([0, 100, 101]),
        "info": st.none(),
    }
    later = []
    for facts in first.sockets:
        change = draw(st.sampled_from([None, "none", *changes]))
        if change:
            later.append(facts._replace(**{change: draw(changes[change])}) if change in changes else facts)  # type: ignore[arg-type]
    return first, other._replace(sockets=tuple(distinct(look(*later, *other.sockets)).sockets))


@pytest.mark.slow
@given(two_looks(), WATCHED)
def test_what_remains_is_what_stood_still(looks: tuple[Snapshot, Snapshot], seconds: float) -> None:
    """Whatever the looks saw: a row of the second stays unless it is hung up or dead, and new or moved."""
    first, second = looks

    def stood_still(facts: SocketFacts) -> bool:
        same = [f for f in first.sockets if (*f.identity, f.cookie) == (*facts.identity, facts.cookie)]
        return any(f.state in (CLOSE_WAIT, CLOSE) and not made_progress(f, facts) for f in same)

    found = keep_still(first, second, seconds).sockets
    expected = [facts for facts in second.sockets if facts.state not in (CLOSE_WAIT, CLOSE) or stood_still(facts)]
    assert [facts._replace(still_for=None) for facts in found] == expected
