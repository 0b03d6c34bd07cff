"""Which listener a connection came through, how full its queue is, and who is above whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.facts import Address, Holder, Snapshot, SocketFacts
from sockguard._core.listeners import Listener, Listeners, listeners_held, topmost
from strategies import LOCAL_HOSTS, socket_facts

LISTEN, CLOSE_WAIT, ESTABLISHED = 10, 8, 1


def socket_at(host: str, port: int = 80, *, state: int = ESTABLISHED, inode: int = 1, **fields: object) -> SocketFacts:
    facts = SocketFacts(state, Address(host, port), Address("192.0.2.1", 9), inode, inode, 0, 0, 0, 0, 0, 0, None)
    return facts._replace(**fields)  # type: ignore[arg-type]


def listener_at(host: str, port: int = 80, **fields: object) -> SocketFacts:
    return socket_at(host, port, state=LISTEN, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("connection", "listener"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("127.0.0.1", "::ffff:0.0.0.0"),
        ("::ffff:127.0.0.1", "::"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("::1", "::1"),
        ("::1", "::"),
    ],
)
def test_listener_is_found(connection: str, listener: str) -> None:
    """Exact, wildcard, dual-stack and IPv4-mapped listeners all take their connections."""
    facts = listener_at(listener)
    assert Listeners([facts]).of(socket_at(connection)) == [facts]


@pytest.mark.parametrize(
    ("connection", "listener"),
    [
        ("127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "::1"),
        ("::1", "127.0.0.1"),
        ("::1", "0.0.0.0"),
        ("::1", "::ffff:0.0.0.0"),
        ("::1", "::2"),
    ],
)
def test_listener_of_another_address_is_not_taken(connection: str, listener: str) -> None:
    """Another address, or the wildcard of IPv4 for IPv6, took nothing."""
    assert Listeners([listener_at(listener)]).of(socket_at(connection)) == []


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        pytest.param({"netns": 7}, False, id="another network namespace"),
        pytest.param({"local": Address("127.0.0.1", 81)}, False, id="another port"),
        pytest.param({"state": CLOSE_WAIT}, False, id="no listener"),
        pytest.param({"interface": 3}, False, id="bound to an interface that the connection is not bound to"),
        pytest.param({}, True, id="the control"),
    ],
)
def test_listener_has_to_fit(changed: dict[str, object], found: bool) -> None:
    """Namespace, port, state and interface all count."""
    assert bool(Listeners([listener_at("127.0.0.1")._replace(**changed)]).of(socket_at("127.0.0.1"))) is found  # type: ignore[arg-type]


@pytest.mark.parametrize("interface", [0, 3])
def test_connection_of_an_interface_came_through_one_bound_there_or_nowhere(interface: int) -> None:
    """A connection that is bound to an interface fits a listener there, and one bound to none."""
    facts = listener_at("127.0.0.1", interface=interface)
    assert Listeners([facts]).of(socket_at("127.0.0.1", interface=3)) == [facts]


@pytest.mark.parametrize(
    ("connection", "better", "worse"),
    [
        ("127.0.0.1", "127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "127.0.0.1", "::"),
        ("127.0.0.1", "0.0.0.0", "::"),
        ("::ffff:127.0.0.1", "127.0.0.1", "::"),
        ("::ffff:127.0.0.1", "0.0.0.0", "::"),
        ("::1", "::1", "::"),
    ],
)
def test_more_specific_listener_wins(connection: str, better: str, worse: str) -> None:
    """An exact address goes before a wildcard, its own family's wildcard before the other's."""
    winner, loser = listener_at(better, inode=1), listener_at(worse, inode=2)
    for order in ([winner, loser], [loser, winner]):
        assert Listeners(order).of(socket_at(connection)) == [winner]


def test_all_that_share_an_address_are_returned() -> None:
    """By SO_REUSEPORT several listeners are equally likely, and none is left out."""
    workers = [listener_at("127.0.0.1", inode=inode) for inode in (1, 2, 3)]
    assert Listeners([*workers, listener_at("0.0.0.0", inode=4)]).of(socket_at("127.0.0.1")) == workers


def test_listeners_are_false_where_there_are_none() -> None:
    """Without a LISTEN row there is nothing to look up."""
    assert [bool(Listeners(rows)) for rows in ([], [socket_at("::1")], [listener_at("::1")])] == [False, False, True]


def test_looking_up_an_unknown_port_leaves_it_unknown() -> None:
    """A look-up does not make a listener out of the port that was asked for."""
    listeners = Listeners([])
    assert (listeners.of(socket_at("127.0.0.1")), bool(listeners)) == ([], False)


ROWS = st.lists(
    socket_facts(states=st.sampled_from([LISTEN, CLOSE_WAIT]), hosts=LOCAL_HOSTS, ports=st.sampled_from([80, 443])),
    max_size=6,
)


@pytest.mark.slow
@given(ROWS, socket_facts(hosts=LOCAL_HOSTS, ports=st.sampled_from([80, 443])), st.randoms(use_true_random=False))
def test_order_of_the_table_does_not_matter(rows: list[SocketFacts], connection: SocketFacts, random: object) -> None:
    """The kernel lists sockets in no order, so the same listeners are found in any."""
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(Listeners(shuffled).of(connection)) == set(Listeners(rows).of(connection))


@pytest.mark.slow
@given(ROWS, socket_facts(hosts=LOCAL_HOSTS, ports=st.sampled_from([80, 443])))
def test_what_is_found_listens_on_the_port(rows: list[SocketFacts], connection: SocketFacts) -> None:
    """Whatever is found is a LISTEN row of the same port and namespace, from the table."""
    for listener in Listeners(rows).of(connection):
        assert listener in rows
        assert (listener.state, listener.local.port, listener.netns) == (
            LISTEN,
            connection.local.port,
            connection.netns,
        )


def holders(*pids: int) -> list[Holder]:
    return [Holder(pid, 3, "server") for pid in pids]


@pytest.mark.parametrize(
    ("pids", "parents", "expected"),
    [
        pytest.param([], {}, set(), id="nobody"),
        pytest.param([5], {5: 1, 1: 0}, {5}, id="one"),
        pytest.param([5, 6, 7], {6: 5, 7: 5, 5: 1}, {5}, id="a master and its workers"),
        pytest.param([5, 7], {7: 6, 6: 5, 5: 1}, {5}, id="a grandchild, its parent holds nothing"),
        pytest.param([6, 7], {6: 5, 7: 5, 5: 1}, {6, 7}, id="siblings whose master holds nothing"),
        pytest.param([5, 6], {}, {5, 6}, id="parents unknown"),
        pytest.param([1, 5], {}, {1, 5}, id="parents unknown, and init is no guess"),
        pytest.param([5, 6, 9], {6: 5, 5: 1, 9: 1}, {5, 9}, id="two families"),
        pytest.param([1, 5], {5: 1, 1: 0}, {1}, id="init"),
        pytest.param([5, 6], {5: 6, 6: 5}, set(), id="a loop: pids were given anew while the tree was read"),
        pytest.param([5], {5: 5}, {5}, id="its own parent"),
    ],
)
def test_topmost(pids: list[int], parents: dict[int, int], expected: set[int]) -> None:
    """The topmost processes are those that no other one of them is an ancestor of."""
    assert topmost(holders(*pids), parents) == expected


def test_process_with_several_descriptors_counts_once() -> None:
    """Two descriptors of one process are one process."""
    assert topmost([Holder(5, 3, ""), Holder(5, 4, "")], {}) == {5}


@given(st.sets(st.integers(1, 9)), st.dictionaries(st.integers(1, 9), st.integers(0, 9)))
def test_topmost_is_a_total_choice_of_the_holders(pids: set[int], parents: dict[int, int]) -> None:
    """Only holders are chosen, loops in the tree do not hang, and a true tree has a top."""
    top = topmost(holders(*pids), parents)
    assert top <= pids
    is_tree = all(parent < pid for pid, parent in parents.items())
    assert top or not pids or not is_tree


def snapshot_of(*sockets: SocketFacts) -> Snapshot:
    return Snapshot(0.0, sockets, {}, {}, {})


def queued(host: str, cookie: int, *, state: int = CLOSE_WAIT, inode: int = 0) -> SocketFacts:
    return socket_at(host, state=state, inode=inode, cookie=cookie)


def test_listener_tells_how_much_of_its_queue_is_dead() -> None:
    """Only CLOSE_WAIT connections that were never accepted count as the dead part of the queue."""
    facts = listener_at("127.0.0.1", inode=7, recv_queue=3, send_queue=8)
    others = [
        queued("127.0.0.1", 1),
        queued("127.0.0.1", 2),
        queued("127.0.0.1", 3, state=ESTABLISHED),
        queued("127.0.0.1", 4, inode=9),
        queued("127.0.0.2", 5),
    ]
    (listener,) = listeners_held(snapshot_of(*others, facts))
    assert listener == Listener(facts, queued_close_wait=2)
    assert (listener.queued, listener.backlog) == (3, 8)


def test_backlog_is_unknown_where_only_text_was_read() -> None:
    """/proc/net/tcp shows a backlog of 0 for every listener, which is no answer; such rows have no cookie either."""
    facts = listener_at("127.0.0.1", recv_queue=3, cookie=None)
    (listener,) = listeners_held(snapshot_of(facts))
    assert (listener.queued, listener.backlog) == (3, None)


def test_dead_part_is_never_more_than_the_queue() -> None:
    """Several listeners share an address: no one is said to have more than it has waiting."""
    busy, free = (listener_at("127.0.0.1", inode=n, recv_queue=queue) for n, queue in ((7, 1), (8, 0)))
    snapshot = snapshot_of(busy, free, queued("127.0.0.1", 1), queued("127.0.0.1", 2))
    assert [held.queued_close_wait for held in listeners_held(snapshot)] == [1, 0]


def test_every_listener_is_listed_and_nothing_else() -> None:
    """Listeners come in the order of the snapshot, whether or not anything waits; connections do not."""
    one, other, connection = listener_at("::1", inode=7), listener_at("::1", 81, inode=8), socket_at("::1", inode=9)
    assert [held.facts for held in listeners_held(snapshot_of(other, connection, one))] == [other, one]


def test_dead_part_of_a_shared_queue_is_what_the_others_cannot_hold() -> None:
    """Three hung-up connections to two listeners by SO_REUSEPORT: a queue of 3 beside one of 2 holds one for sure."""
    long, short = (listener_at("127.0.0.1", inode=inode, recv_queue=queue) for inode, queue in ((7, 3), (8, 2)))
    snapshot = snapshot_of(long, short, *(queued("127.0.0.1", cookie) for cookie in (1, 2, 3)))
    assert [held.queued_close_wait for held in listeners_held(snapshot)] == [1, 0]
