"""Which connections are leaked and why: every rule hit and just not hit, and the laws of the whole."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.causes import TLS_ALERT_SIZES
from sockguard._core.facts import Address, Holder, Snapshot, SocketFacts, TcpInfo
from sockguard._core.inference import Age, AgeKind, Side
from sockguard._core.leaks import LEAK_AFTER, RULES, Cause, Known, Leak, Stall, find_leaks
from strategies import PIDS, snapshots

ESTABLISHED, CLOSE, CLOSE_WAIT, LISTEN = 1, 7, 8, 10
SERVED, REMOTE = Address("127.0.0.1", 80), Address("192.0.2.1", 50000)
LISTENER, CONNECTION = 7, 100  # inodes
QUIET = TcpInfo(CLOSE_WAIT, 0, 0, 0, 0, 60.0, 30.0, 30.0, 0.001, 0, 1, 1, 1, 0, 0, 0)
"""The peer hung up 30 s ago; accepted, for no byte more was acknowledged than sent."""


def connection(
    inode: int = CONNECTION, *, recv: int = 0, state: int = CLOSE_WAIT, age: float = 30.0, **info: object
) -> SocketFacts:
    facts = SocketFacts(state, SERVED, REMOTE, inode, inode, 0, recv, 0, 0, 0, 0, QUIET._replace(last_ack_recv=age))
    return facts._replace(info=facts.info._replace(**info))  # type: ignore[union-attr, arg-type]


def client(**fields: object) -> SocketFacts:
    """A connection that we opened: one byte more was acknowledged than sent, the SYN."""
    return connection(bytes_acked=1, **fields)  # type: ignore[arg-type]


def listener(inode: int = LISTENER, host: str = "127.0.0.1", *, queued: int = 0) -> SocketFacts:
    return SocketFacts(LISTEN, Address(host, 80), Address("0.0.0.0", 0), inode, inode, 0, queued, 8, 0, 0, 0, QUIET)


def held(**by_inode: object) -> dict[int, tuple[Holder, ...]]:
    """i7=[5, 6]: the socket with inode 7 is held by the processes 5 and 6, as descriptor 3."""
    return {
        int(inode[1:]): tuple(pid if isinstance(pid, Holder) else Holder(pid, 3, f"process {pid}") for pid in pids)  # type: ignore[attr-defined]
        for inode, pids in by_inode.items()
    }


def leaks_of(
    *sockets: SocketFacts,
    holders: dict[int, tuple[Holder, ...]] | None = None,
    parents: dict[int, int] | None = None,
    **arguments: object,
) -> list[Leak]:
    return find_leaks(Snapshot(0.0, sockets, {}, holders or {}, parents or {}), **arguments)  # type: ignore[arg-type]


def leak_of(*sockets: SocketFacts, **arguments: object) -> Leak:
    """The only leak that there is."""
    (leak,) = leaks_of(*sockets, **arguments)  # type: ignore[arg-type]
    return leak


def test_connection_in_close_wait_is_a_leak_and_tells_all_of_itself() -> None:
    """A leak carries what a report needs: who, where, since when, how much, why and what to do."""
    facts = connection(recv=6)._replace(send_queue=4, cookie=8202)
    leak = leak_of(facts, listener(), holders=held(i100=[5], i7=[5]))
    assert (leak.connection, leak.listeners, leak.holders) == (facts, (listener(),), (Holder(5, 3, "process 5"),))
    assert (leak.pid, leak.fd, leak.inode, leak.cookie, leak.state) == (5, 3, CONNECTION, 8202, "CLOSE_WAIT")
    assert (leak.local, leak.remote, leak.side) == (SERVED, REMOTE, Side.SERVER)
    assert (leak.recv_queue, leak.send_queue, leak.cause) == (6, 4, Cause.UNREAD)
    assert (leak.created_at, leak.held_by) == (None, None)
    assert leak.remedy == Cause.UNREAD.remedy


@pytest.mark.parametrize("state", [state for state in range(14) if state not in (CLOSE_WAIT, CLOSE)])
def test_no_other_state_is_a_leak(state: int) -> None:
    """Only CLOSE_WAIT and CLOSE mean that the peer hung up and the application did not close."""
    assert leaks_of(connection(state=state)) == []


# Age


def test_default_age() -> None:
    """What is documented, and what operators set their alerts by."""
    assert LEAK_AFTER == 10.0


@pytest.mark.parametrize(
    ("age", "n_leaks"), [(LEAK_AFTER, 1), (LEAK_AFTER - 0.001, 0), (LEAK_AFTER + 0.001, 1), (0.0, 0)]
)
def test_leak_begins_at_the_default_age(age: float, n_leaks: int) -> None:
    """A connection is leaked from `LEAK_AFTER` seconds on, that instant included."""
    assert len(leaks_of(connection(age=age))) == n_leaks


@pytest.mark.parametrize(("min_age", "n_leaks"), [(0, 1), (30.0, 1), (30.001, 0), (float("inf"), 0)])
def test_min_age_moves_the_threshold(min_age: float, n_leaks: int) -> None:
    """`min_age` counts in seconds, that instant included."""
    assert len(leaks_of(connection(), min_age=min_age)) == n_leaks


def test_unknown_age_is_listed_whatever_the_threshold() -> None:
    """Silence would hide a leak, so one whose age cannot be told is listed, and says so."""
    leak = leak_of(connection()._replace(info=None), min_age=1e9)
    assert (leak.age, leak.age_seconds, leak.age_is) == (Age(None, AgeKind.UNKNOWN), None, "unknown")


def test_age_is_passed_on_with_its_kind() -> None:
    """The report says how far its age is to be trusted."""
    assert [(leak_of(c).age_seconds, leak_of(c).age_is) for c in (connection(), connection()._replace(timer=2))] == [
        (30.0, "exact"),
        (30.0, "at_least"),
    ]


# Causes, in the order of the table


def test_rules_are_in_the_documented_order_and_each_cause_has_one() -> None:
    """The order decides which cause is named, so it is part of the interface; the last takes what is left."""
    assert [rule.cause for rule in RULES] == list(Cause)
    assert [cause.value for cause in Cause] == (
        "not_accepted shared ended_by_guard dead_fd stalled stale_client unread eof_unread eof_ignored".split()
    )


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_has_a_remedy_of_its_own(cause: Cause) -> None:
    """A cause without advice would be a complaint; two causes with one advice would be one cause."""
    assert cause.remedy
    assert sum(cause.remedy == other.remedy for other in Cause) == 1


KNOWN = Known(("app.py:1 in f",), ("set 'subs' of module app",), owner="f() waits at app.py:3", reason="fin_timeout")


def test_what_the_process_itself_tells_goes_into_the_leak() -> None:
    """It is joined by the cookie; why the guard ended it is told only where it did."""
    facts = connection()._replace(cookie=8202)
    leak = leak_of(facts, known={8202: KNOWN._replace(stalled=Stall(2.0, ("app.py:9 in g",)))})
    assert (leak.created_at, leak.held_by, leak.waits_at) == (KNOWN.created_at, KNOWN.held_by, KNOWN.owner)
    assert (leak.cause, leak.stalled, leak.ended_because) == (Cause.STALLED, Stall(2.0, ("app.py:9 in g",)), None)
    ended = leak_of(facts, known={8202: KNOWN._replace(ended_by_guard=True)})
    assert (ended.cause, ended.ended_because) == (Cause.ENDED_BY_GUARD, "fin_timeout")


@pytest.mark.parametrize("cookie", [None, 7])
def test_what_is_told_of_another_connection_is_not_mixed_up(cookie: int | None) -> None:
    """Without a cookie, as where only /proc could be read, nothing can be joined."""
    leak = leak_of(connection()._replace(cookie=cookie), known={8202: KNOWN})
    assert (leak.created_at, leak.cause) == (None, Cause.EOF_IGNORED)


def test_not_accepted_is_a_connection_without_inode() -> None:
    """It names the process of the listener, and has neither descriptor nor inode of its own."""
    leak = leak_of(connection(0, recv=1)._replace(cookie=9), listener(queued=1), holders=held(i7=[5]))
    assert (leak.cause, leak.pid, leak.fd, leak.inode, leak.cookie) == (Cause.NOT_ACCEPTED, 5, None, None, 9)
    assert (leak.side, leak.holders, leak.listeners) == (Side.SERVER, (), (listener(queued=1),))


def test_not_accepted_is_listed_though_nobody_is_known_to_listen() -> None:
    """A listener may be gone or in a process that cannot be seen; the row stays, as a server's."""
    leak = leak_of(connection(0)._replace(info=None))
    assert (leak.cause, leak.owner, leak.pid, leak.fd, leak.side) == (Cause.NOT_ACCEPTED, None, None, None, Side.SERVER)


def test_not_accepted_goes_before_every_other_cause() -> None:
    """It is not held by anybody, so nobody stopped reading, even with unread bytes and many listeners' processes."""
    leak = leak_of(connection(0, recv=99), listener(queued=1), holders=held(i7=[5, 6]), parents={6: 5})
    assert leak.cause is Cause.NOT_ACCEPTED


def test_not_accepted_names_the_listeners_that_have_a_queue() -> None:
    """Of several by SO_REUSEPORT, those with an empty queue cannot have it; its lowest pid is named."""
    full, other_full, empty = listener(7, queued=2), listener(8, queued=1), listener(9)
    leak = leak_of(connection(0), empty, other_full, full, holders=held(i7=[6], i8=[5], i9=[4]))
    assert (leak.pid, set(leak.listeners)) == (5, {full, other_full})


def test_not_accepted_names_all_listeners_if_no_queue_is_known() -> None:
    """The queue may have been emptied since; then every listener of the address is as likely."""
    leak = leak_of(connection(0), listener(7), listener(8), holders=held(i7=[6], i8=[5]))
    assert (leak.pid, set(leak.listeners)) == (5, {listener(7), listener(8)})


@pytest.mark.parametrize(
    ("holders", "accepters", "parents", "is_shared"),
    [
        pytest.param([6, 7], [5, 6, 7], {6: 5, 7: 5, 5: 1}, True, id="master closed it, two children kept it"),
        pytest.param([5, 6], [5, 6], {6: 5, 5: 1}, False, id="the topmost holds it too: it leaks by itself"),
        pytest.param([6], [5, 6], {6: 5, 5: 1}, False, id="one process alone"),
        pytest.param([6, 7], [6, 7], {6: 5, 7: 5, 5: 1}, False, id="siblings that listen both: both are topmost"),
        pytest.param([6, 7], [5], {6: 5, 7: 5}, True, id="only the master listens"),
        pytest.param([6, 7], [5], {}, True, id="parents unknown: the listener's process is not among them"),
        pytest.param([6, 7], [5, 6, 7], {}, False, id="parents unknown: each of them may be the topmost"),
        pytest.param([6, 7], [], {6: 5, 7: 5}, False, id="nobody is known to listen"),
        pytest.param([7, 8], [5, 7], {7: 6, 6: 5, 8: 7}, True, id="grandchildren; the process between holds nothing"),
        pytest.param(
            [6, 9], [5, 9], {6: 5, 5: 1, 9: 1}, False, id="two families by SO_REUSEPORT, the top of one holds it"
        ),
        pytest.param([6, 7], [5, 9], {6: 5, 7: 5, 5: 1, 9: 1}, True, id="two families, the top of neither holds it"),
        pytest.param([6, 7], [6, 7], {6: 7, 7: 6}, False, id="a loop of parents has no top"),
    ],
)
def test_shared(holders: list[int], accepters: list[int], parents: dict[int, int], is_shared: bool) -> None:
    """Forked children kept it, if two processes hold it and the topmost holder of the listener is not among them."""
    leak = leak_of(connection(recv=9), listener(), holders=held(i100=holders, i7=accepters), parents=parents)
    assert leak.cause is (Cause.SHARED if is_shared else Cause.UNREAD)
    assert [holder.pid for holder in leak.holders] == holders


def test_shared_looks_at_all_listeners_that_share_the_address() -> None:
    """By SO_REUSEPORT it may have come through any of them, so the topmost process of each counts."""
    rows = (connection(), listener(7), listener(8))
    parents = {6: 5, 7: 5, 5: 1, 9: 1}
    assert leak_of(*rows, holders=held(i100=[6, 7], i7=[5], i8=[9]), parents=parents).cause is Cause.SHARED
    assert leak_of(*rows, holders=held(i100=[6, 9], i7=[5], i8=[9]), parents=parents).cause is Cause.EOF_IGNORED


def test_two_descriptors_of_one_process_are_not_shared() -> None:
    """A duplicate within one process is closed by that process; no other has to do anything."""
    twice = [Holder(6, 3, "worker"), Holder(6, 4, "worker")]
    leak = leak_of(connection(), listener(), holders=held(i100=twice, i7=[5]), parents={6: 5})
    assert (leak.cause, leak.fd) == (Cause.EOF_IGNORED, 3)
    assert leak.remedy == Cause.EOF_IGNORED.remedy


def test_client_is_not_shared_without_a_listener() -> None:
    """Whoever connected and forked has no listener to tell the topmost by: the other causes apply."""
    leak = leak_of(client(), holders=held(i100=[5, 6]), parents={6: 5})
    assert leak.cause is Cause.STALE_CLIENT


def test_remedy_says_that_all_must_close_what_several_hold() -> None:
    """A leak that is shared, but for another cause, has the advice of that cause and says who has to act."""
    rows = (connection(), listener())
    both = leak_of(*rows, holders=held(i100=[5, 6], i7=[5, 6]), parents={6: 5})
    children = leak_of(*rows, holders=held(i100=[6, 7], i7=[5]), parents={6: 5, 7: 5})
    assert both.remedy == f"{Cause.EOF_IGNORED.remedy} It is shared: all 2 processes that hold it must close it."
    assert children.remedy == Cause.SHARED.remedy


@pytest.mark.parametrize("recv", [0, 1, 99])
def test_dead_fd_is_a_connection_that_left_the_tables(recv: int) -> None:
    """State CLOSE with an open descriptor is dead, whoever opened it and whatever is unread."""
    for facts in (connection(state=CLOSE, recv=recv), client(state=CLOSE, recv=recv)):
        leak = leak_of(facts, holders=held(i100=[5]))
        assert (leak.cause, leak.state, leak.fd, leak.age_is) == (Cause.DEAD_FD, "CLOSE", 3, "about")


def test_dead_fd_that_children_kept_is_shared() -> None:
    """The rule of the forked children goes before that of the dead descriptor."""
    leak = leak_of(connection(state=CLOSE), listener(), holders=held(i100=[6, 7], i7=[5]), parents={6: 5, 7: 5})
    assert leak.cause is Cause.SHARED


@pytest.mark.parametrize("unread", [0, *sorted(TLS_ALERT_SIZES)])
def test_stale_client_has_nothing_to_read_but_a_goodbye(unread: int) -> None:
    """A client with an empty queue, or one that holds just a TLS alert, is pooled or forgotten."""
    for recv in (unread + 1, *([0] if unread == 0 else [])):
        assert leak_of(client(recv=recv)).cause is Cause.STALE_CLIENT


@pytest.mark.parametrize(
    "unread", sorted({size + step for size in TLS_ALERT_SIZES for step in (-1, 1)} - TLS_ALERT_SIZES | {1})
)
def test_client_with_an_answer_unread_is_not_stale(unread: int) -> None:
    """Any other number of bytes is an answer that the application did not read."""
    assert leak_of(client(recv=unread + 1)).cause is Cause.UNREAD


def test_sizes_of_a_tls_goodbye() -> None:
    """One alert record: 5 + 2 bytes in the clear, and with what each cipher in use adds (RFC 5246, RFC 8446)."""
    header, alert, nonce, tag, inner_type = 5, 2, 8, 16, 1
    cbc_sha1, cbc_sha256 = 16 + 32, 16 + 48  # IV, then alert, MAC and padding in whole blocks
    assert {
        header + alert,
        header + alert + tag,
        header + alert + inner_type + tag,
        header + nonce + alert + tag,
        header + 32,
        header + cbc_sha1,
        header + cbc_sha256,
    } == TLS_ALERT_SIZES


def test_tls_alert_does_not_excuse_a_server() -> None:
    """A server with 24 bytes unread stopped reading; only clients are stale."""
    assert leak_of(connection(recv=25)).cause is Cause.UNREAD


@pytest.mark.parametrize(
    ("recv", "cause"), [(0, Cause.EOF_IGNORED), (1, Cause.EOF_UNREAD), (2, Cause.UNREAD), (4096, Cause.UNREAD)]
)
def test_queue_tells_how_far_a_server_read(recv: int, cause: Cause) -> None:
    """Everything read, only the FIN unread, or bytes in front of it."""
    assert leak_of(connection(recv=recv), listener(), holders=held(i100=[5], i7=[5])).cause is cause


# Side


def test_side_follows_the_byte_counts_against_the_listener() -> None:
    """A client that connects from a port on which the process also listens is still a client."""
    assert leak_of(client(), listener()).side is Side.CLIENT


def test_side_follows_the_byte_counts_without_a_listener() -> None:
    """A server whose listener was closed long ago is still a server."""
    assert leak_of(connection()).side is Side.SERVER


@pytest.mark.parametrize(
    ("listeners", "side"),
    [((), Side.CLIENT), ((listener(),), Side.SERVER), ((listener(host="127.0.0.2"),), Side.CLIENT)],
)
def test_side_follows_the_listener_where_the_counts_are_missing(listeners: tuple[SocketFacts, ...], side: Side) -> None:
    """On an old kernel, in text and of the dead: who has a listener for the address has served, others connected."""
    assert leak_of(connection(bytes_sent=None, bytes_retrans=None), *listeners).side is side
    assert leak_of(connection()._replace(info=None), *listeners).side is side
    assert leak_of(connection(state=CLOSE), *listeners).side is side


@pytest.mark.parametrize(
    ("local", "bound"),
    [
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("::ffff:127.0.0.1", "::"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::1", "::"),
        ("::1", "::1"),
    ],
)
def test_listener_is_found_across_wildcards_and_families(local: str, bound: str) -> None:
    """IPv4, IPv4-mapped and IPv6 connections are attributed to exact, wildcard and dual-stack listeners."""
    facts = connection(0)._replace(local=Address(local, 80))
    assert leak_of(facts, listener(host=bound, queued=1), holders=held(i7=[5])).pid == 5


# Who is named, who was asked for


def test_unknown_owner_keeps_the_row() -> None:
    """Without the right to see descriptors a leak is still listed, with no pid."""
    leak = leak_of(connection())
    assert (leak.owner, leak.pid, leak.fd, leak.holders, leak.inode) == (None, None, None, (), CONNECTION)


def test_unknown_owner_is_left_out_where_pids_are_asked_for() -> None:
    """Whether it belongs to the process that was asked for is not known, so it is not blamed on it."""
    assert leaks_of(connection(), pids=[5]) == []


def test_leak_is_listed_once_under_the_lowest_pid_asked_for() -> None:
    """One leak is one connection, whoever shares it; and all who hold it are named."""
    rows, holders = (connection(), listener()), held(i100=[5, 6, 7], i7=[5])
    for pids, expected in ((None, 5), ([7, 6], 6), ([7], 7), ([5, 6, 7, 8], 5)):
        leak = leak_of(*rows, holders=holders, pids=pids)
        assert (leak.pid, [holder.pid for holder in leak.holders]) == (expected, [5, 6, 7])


def test_lowest_descriptor_of_the_process_is_named() -> None:
    """Of several descriptors of one process the lowest stands for it."""
    assert leak_of(connection(), holders=held(i100=[Holder(5, 9, "a"), Holder(5, 4, "a")])).fd == 4


@pytest.mark.parametrize("pids", [[], [9], {9: "unrelated"}])
def test_leaks_of_others_are_left_out(pids: object) -> None:
    """Only the processes that were asked for count; to ask for none finds none."""
    assert leaks_of(connection(), listener(), holders=held(i100=[5], i7=[5]), pids=pids) == []


def test_cause_does_not_depend_on_who_is_asked_for() -> None:
    """A connection that children kept is so, even if only one of them is looked at."""
    rows, holders = (connection(), listener()), held(i100=[6, 7], i7=[5])
    causes = [leak_of(*rows, holders=holders, parents={6: 5, 7: 5}, pids=pids).cause for pids in (None, [6], [7])]
    assert causes == [Cause.SHARED] * 3


def test_what_children_kept_is_found_by_the_pid_of_the_parent_that_accepted_it() -> None:
    """The parent holds it no more, but it is where the bug is; the leak stands under the lowest holder."""
    rows, parents = (connection(), listener()), {6: 5, 7: 5, 5: 1}
    leak = leak_of(*rows, holders=held(i100=[6, 7], i7=[5]), parents=parents, pids=[5])
    assert (leak.cause, leak.pid, [h.pid for h in leak.holders]) == (Cause.SHARED, 6, [6, 7])
    assert leak_of(*rows, holders=held(i100=[6, 7], i7=[5]), parents=parents, pids=[5, 7]).pid == 7


def test_what_a_child_holds_alone_is_not_the_parents() -> None:
    """A worker that accepted it by itself leaks it by itself, though its parent listens too."""
    rows, parents = (connection(), listener()), {6: 5, 5: 1}
    assert leaks_of(*rows, holders=held(i100=[6], i7=[5, 6]), parents=parents, pids=[5]) == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (connection(recv=6), "Leak(unread, pid=5, fd=3, 127.0.0.1:80 <- 192.0.2.1:50000, 30.0 s)"),
        (client(), "Leak(stale_client, pid=5, fd=3, 127.0.0.1:80 -> 192.0.2.1:50000, 30.0 s)"),
        (
            connection(recv=6)._replace(info=None),
            "Leak(unread, pid=5, fd=3, 127.0.0.1:80 -> 192.0.2.1:50000, age unknown)",
        ),
        (connection(state=CLOSE)._replace(remote=None), "Leak(dead_fd, pid=5, fd=3, 127.0.0.1:80 -> None, 30.0 s)"),
    ],
)
def test_leak_is_printed_in_a_line(facts: SocketFacts, text: str) -> None:
    """In a debugger or a failed test a leak says what matters, and not all that there is."""
    assert repr(leak_of(facts, holders=held(i100=[5]))) == text


def test_not_accepted_is_found_by_the_pid_of_any_process_that_listens() -> None:
    """A worker that shares the listener is as responsible as its master."""
    rows, holders = (connection(0), listener(queued=1)), held(i7=[5, 6])
    assert [leak_of(*rows, holders=holders, pids=pids).pid for pids in (None, [6], [5, 6])] == [5, 6, 5]
    assert leaks_of(*rows, holders=holders, pids=[7]) == []


def test_leaks_come_by_process_then_oldest_first_and_unknown_owners_last() -> None:
    """The order of the report: ascending pid, within it descending age, then the descriptor."""
    young, old, same, other, nobody = (
        connection(inode, age=age)
        for inode, age in ((100, 20.0), (101, 90.0), (102, 90.0), (103, 5000.0), (104, 9999.0))
    )
    holders = held(i100=[5], i101=[Holder(5, 8, "")], i102=[Holder(5, 7, "")], i103=[6])
    leaks = leaks_of(nobody, other, young, old, same, holders=holders)
    assert [leak.inode for leak in leaks] == [102, 101, 100, 103, 104]


# Laws

MIN_AGES = st.sampled_from([0.0, 0.5, 9.999, 10.0, 10.001, 1e9])
SOME_PIDS = st.none() | st.frozensets(PIDS)


def connections(leaks: list[Leak]) -> Counter[SocketFacts]:
    return Counter(leak.connection for leak in leaks)


@pytest.mark.slow
@given(snapshots(), MIN_AGES)
def test_every_old_connection_is_listed_exactly_once(snapshot: Snapshot, min_age: float) -> None:
    """Whatever the snapshot: no CLOSE_WAIT or dead row that is old enough is missing, or there twice."""
    old = [
        facts
        for facts in snapshot.sockets
        if facts.state in (CLOSE_WAIT, CLOSE) and (facts.info is None or facts.info.last_ack_recv >= min_age)
    ]
    assert connections(find_leaks(snapshot, min_age=min_age)) == Counter(old)


@pytest.mark.slow
@given(snapshots(), MIN_AGES, MIN_AGES, SOME_PIDS)
def test_raising_the_age_never_adds_leaks(
    snapshot: Snapshot, one: float, other: float, pids: frozenset[int] | None
) -> None:
    """The leaks at a higher `min_age` are some of those at a lower one, unchanged."""
    few = find_leaks(snapshot, min_age=max(one, other), pids=pids)
    many = find_leaks(snapshot, min_age=min(one, other), pids=pids)
    assert [leak for leak in many if leak in few] == few


@pytest.mark.slow
@given(snapshots(), SOME_PIDS, st.randoms(use_true_random=False))
def test_order_of_the_snapshot_does_not_matter(
    snapshot: Snapshot, pids: frozenset[int] | None, randomness: random.Random
) -> None:
    """The kernel lists sockets by hash, so each leak is the same in any order of the rows."""

    def summary(sockets: tuple[SocketFacts, ...]) -> Counter[tuple[object, ...]]:
        leaks = find_leaks(snapshot._replace(sockets=sockets), min_age=0, pids=pids)
        return Counter(
            (k.connection, k.cause, k.side, k.owner, k.holders, frozenset(k.listeners), k.remedy) for k in leaks
        )

    shuffled = list(snapshot.sockets)
    randomness.shuffle(shuffled)
    assert summary(tuple(shuffled)) == summary(snapshot.sockets)


@pytest.mark.slow
@given(snapshots(), st.frozensets(PIDS))
def test_asking_for_processes_only_leaves_out_and_renames(snapshot: Snapshot, pids: frozenset[int]) -> None:
    """What is listed for some processes is listed for all, with the same cause, under a pid that was asked for."""
    everything = {leak.connection: leak for leak in find_leaks(snapshot, min_age=0)}
    for leak in find_leaks(snapshot, min_age=0, pids=pids):
        same = everything[leak.connection]
        assert (leak.cause, leak.side, leak.holders, leak.age) == (same.cause, same.side, same.holders, same.age)
        accepters = {holder.pid for s in leak.listeners for holder in snapshot.holders.get(s.inode, ())}
        assert leak.pid in pids or (leak.cause is Cause.SHARED and accepters & pids)
        assert same.pid is not None and same.pid <= leak.pid


@pytest.mark.slow
@given(snapshots())
def test_asking_for_every_process_leaves_out_only_unknown_owners(snapshot: Snapshot) -> None:
    """To ask for all pids that exist gives just the leaks with an owner."""
    known = [leak for leak in find_leaks(snapshot, min_age=0) if leak.owner]
    assert find_leaks(snapshot, min_age=0, pids=range(1, 10)) == known


@pytest.mark.slow
@given(snapshots())
def test_what_a_leak_says_hangs_together(snapshot: Snapshot) -> None:
    """Owner, descriptor, holders and listeners of each leak agree with the snapshot and each other."""
    for leak in find_leaks(snapshot, min_age=0):
        assert (leak.cause is Cause.NOT_ACCEPTED) == (leak.inode is None)
        assert leak.fd is None or leak.owner in leak.holders
        assert leak.inode is not None or (leak.fd is None and leak.holders == ())
        assert leak.inode is None or leak.owner == min(leak.holders, default=None)
        assert all(s.state == LISTEN and s.local.port == leak.local.port for s in leak.listeners)
        assert leak.cause is not Cause.SHARED or len({holder.pid for holder in leak.holders}) > 1
        assert (leak.cause is Cause.DEAD_FD) <= (leak.state == "CLOSE")
        assert (leak.cause is Cause.STALE_CLIENT) <= (leak.side is Side.CLIENT)
        assert leak.remedy.startswith(leak.cause.remedy)


@pytest.mark.slow
@given(snapshots())
def test_report_is_sorted(snapshot: Snapshot) -> None:
    """Ascending pids, unknown owners last, and within a process no leak before an older one."""
    keys = [
        (float("inf") if leak.pid is None else leak.pid, -(leak.age_seconds or 0.0))
        for leak in find_leaks(snapshot, min_age=0)
    ]
    assert keys == sorted(keys)
