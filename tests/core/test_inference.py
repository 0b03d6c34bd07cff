"""Age, side and progress: what follows from the kernel's counters, and what does not."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sockguard._core.facts import Address, SocketFacts, TcpInfo
from sockguard._core.inference import Age, AgeKind, age_of, made_progress, opened_by_us
from strategies import SECONDS, socket_facts

HOST = Address("127.0.0.1", 80)
CLOSE_WAIT, CLOSE = 8, 7
QUIET = TcpInfo(CLOSE_WAIT, 0, 0, 0, 0, 60.0, 30.0, 30.0, 0.001, 0, 1, 1, 1, 0, 0, 0)
"""30 s ago the peer hung up; nothing was ever sent."""


def connection(*, state: int = CLOSE_WAIT, timer: int = 0, recv: int = 1, send: int = 0, **info: object) -> SocketFacts:
    return SocketFacts(state, HOST, HOST, 1, 1, 0, recv, send, timer, 0, 0, QUIET._replace(**info))  # type: ignore[arg-type]


def test_age_is_unknown_without_tcp_info() -> None:
    """A row of /proc/net/tcp tells no age."""
    assert age_of(connection()._replace(info=None)) == Age(None, AgeKind.UNKNOWN)


def test_age_is_exact_where_nothing_was_ever_sent() -> None:
    """A peer that had nothing to acknowledge sent its FIN last."""
    assert age_of(connection()) == Age(30.0, AgeKind.EXACT)


def test_age_is_at_least_under_keepalive() -> None:
    """The peer's kernel may have answered probes after its FIN, even where no data was sent."""
    assert age_of(connection(timer=2)) == Age(30.0, AgeKind.AT_LEAST)


@pytest.mark.parametrize(
    ("sent_ago", "kind"),
    [
        (31.001, AgeKind.ABOUT),
        (31.0, AgeKind.AT_LEAST),
        (30.0, AgeKind.AT_LEAST),
        (3.0, AgeKind.AT_LEAST),
    ],
)
def test_age_is_at_least_where_the_last_packet_may_answer_our_data(sent_ago: float, kind: AgeKind) -> None:
    """A packet that came long after our last data was no acknowledgement of it."""
    assert age_of(connection(bytes_sent=5, last_data_sent=sent_ago)) == Age(30.0, kind)


def test_old_kernel_never_tells_an_exact_age() -> None:
    """Before Linux 4.19 it is not known whether anything was sent."""
    old = {"bytes_sent": None, "bytes_retrans": None}
    assert [age_of(connection(**old, last_data_sent=ago)).kind for ago in (60.0, 30.0)] == [
        AgeKind.ABOUT,
        AgeKind.AT_LEAST,
    ]


@pytest.mark.parametrize(("timer", "sent"), [(0, 0), (2, 0), (0, 5)])
def test_age_of_a_dead_descriptor_is_about(timer: int, sent: int) -> None:
    """The last packet of a connection that is over may be its FIN, its reset or an acknowledgement."""
    assert age_of(connection(state=CLOSE, timer=timer, bytes_sent=sent)) == Age(30.0, AgeKind.ABOUT)


def test_age_is_at_least_the_time_watched_where_the_kernel_tells_none() -> None:
    """Without TCP_INFO, a connection that was watched is known to have stood still for so long."""
    assert age_of(connection()._replace(info=None, still_for=2.5)) == Age(2.5, AgeKind.AT_LEAST)


@pytest.mark.parametrize(
    ("watched", "age"),
    [
        (2.5, Age(30.0, AgeKind.EXACT)),
        (30.0, Age(30.0, AgeKind.EXACT)),
        (30.5, Age(30.5, AgeKind.AT_LEAST)),
    ],
)
def test_longer_of_silence_and_watching_counts(watched: float, age: Age) -> None:
    """Who was watched to stand still for longer than the peer has been silent is at least that old."""
    assert age_of(connection()._replace(still_for=watched)) == age


def test_watching_sees_through_answered_keepalive_probes() -> None:
    """Probes renew the peer's last packet, so the kernel's age stays small; watching tells the truth."""
    facts = connection(timer=2, last_ack_recv=0.5)
    assert [age_of(f) for f in (facts, facts._replace(still_for=60.0))] == [
        Age(0.5, AgeKind.AT_LEAST),
        Age(60.0, AgeKind.AT_LEAST),
    ]


@pytest.mark.slow
@given(socket_facts())
def test_age_is_total(facts: SocketFacts) -> None:
    """Any socket has an age of a known kind: the peer's silence, or unknown without TCP_INFO."""
    age = age_of(facts)
    assert age.seconds == (facts.info.last_ack_recv if facts.info else None)
    assert (age.kind is AgeKind.UNKNOWN) == (facts.info is None)


@pytest.mark.slow
@given(socket_facts(), st.integers(0, 10**6))
def test_time_that_passes_makes_no_age_more_certain(facts: SocketFacts, milliseconds: int) -> None:
    """If nothing happens meanwhile, the age grows by the time that passed and its kind stays."""
    assume(facts.info is not None and facts.info.last_ack_recv < 1e6 and facts.info.last_data_sent < 1e6)
    info = facts.info
    whole = info._replace(last_ack_recv=float(int(info.last_ack_recv)), last_data_sent=float(int(info.last_data_sent)))
    later = whole._replace(
        last_ack_recv=whole.last_ack_recv + milliseconds, last_data_sent=whole.last_data_sent + milliseconds
    )
    before, after = age_of(facts._replace(info=whole)), age_of(facts._replace(info=later))
    assert (after.seconds, after.kind) == (before.seconds + milliseconds, before.kind)


@pytest.mark.parametrize(
    ("acked", "sent", "retrans", "send_queue", "notsent", "ours"),
    [
        pytest.param(0, 0, 0, 0, 0, False, id="accepted, nothing sent"),
        pytest.param(1, 0, 0, 0, 0, True, id="connected, nothing sent: only the SYN was acknowledged"),
        pytest.param(10, 10, 0, 0, 0, False, id="accepted, all delivered"),
        pytest.param(11, 10, 0, 0, 0, True, id="connected, all delivered"),
        pytest.param(10, 25, 15, 0, 0, False, id="accepted, some sent twice"),
        pytest.param(6, 10, 0, 5, 0, True, id="connected, five bytes in flight"),
        pytest.param(5, 5, 0, 7, 7, False, id="accepted, seven bytes not sent yet"),
        pytest.param(4, 10, 0, 12, 5, True, id="connected, seven in flight and five not sent yet"),
        pytest.param(2, 0, 0, 0, 0, None, id="one too many"),
        pytest.param(9, 10, 0, 0, 0, None, id="one too few"),
    ],
)
def test_side_follows_from_the_byte_counts(
    acked: int, sent: int, retrans: int, send_queue: int, notsent: int, ours: bool | None
) -> None:
    """Acknowledged bytes exceed the delivered payload by the SYN of an active open, or by nothing."""
    facts = connection(
        send=send_queue, bytes_acked=acked, bytes_sent=sent, bytes_retrans=retrans, notsent_bytes=notsent
    )
    assert opened_by_us(facts) is ours


@pytest.mark.parametrize("surplus", [-1, 0, 1, 2])
def test_side_of_a_dead_connection_is_not_told_by_its_counts(surplus: int) -> None:
    """Its own FIN may have been counted, and what was in flight is forgotten: any surplus fits either side."""
    assert opened_by_us(connection(state=CLOSE, bytes_acked=5 + surplus, bytes_sent=5)) is None


@pytest.mark.parametrize("missing", ["bytes_acked", "bytes_sent", "bytes_retrans", "notsent_bytes"])
def test_side_is_unknown_where_a_count_is_missing(missing: str) -> None:
    """Without one of the counts nothing is claimed."""
    assert opened_by_us(connection(**{missing: None})) is None


def test_side_is_unknown_without_tcp_info() -> None:
    """A row of /proc/net/tcp has no counts."""
    assert opened_by_us(connection()._replace(info=None)) is None


@given(st.integers(0, 2**40), st.integers(0, 2**30), st.integers(0, 2**30), st.integers(0, 2**20), st.booleans())
def test_side_is_told_for_every_honest_history(
    delivered: int, retrans: int, in_flight: int, notsent: int, active: bool
) -> None:
    """Whatever was sent, sent again, is under way or not sent yet: the side comes out right."""
    facts = connection(
        send=in_flight + notsent,
        bytes_acked=delivered + active,
        bytes_sent=delivered + retrans + in_flight,
        bytes_retrans=retrans,
        notsent_bytes=notsent,
    )
    assert opened_by_us(facts) is active


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"recv": 9}, {"recv": 5}, id="the application read"),
        pytest.param({"send": 9}, {"send": 5}, id="the peer acknowledged"),
        pytest.param({"bytes_acked": 5}, {"bytes_acked": 6}, id="acknowledged and refilled"),
        pytest.param({"recv": 5, "bytes_received": 5}, {"recv": 5, "bytes_received": 9}, id="read and refilled"),
    ],
)
def test_bytes_that_move_are_progress(before: dict[str, int], after: dict[str, int]) -> None:
    """What leaves a queue is progress, even if as much came after it."""
    assert made_progress(connection(**before), connection(**after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param(
            {"recv": 5, "bytes_received": 5}, {"recv": 9, "bytes_received": 9}, id="arrivals that nobody reads"
        ),
        pytest.param({"send": 5}, {"send": 9}, id="more to send, nothing acknowledged"),
        pytest.param(
            {"bytes_retrans": 5, "last_data_sent": 9.0},
            {"bytes_retrans": 9, "last_data_sent": 0.1},
            id="retransmission",
        ),
    ],
)
def test_arrivals_and_retransmissions_are_no_progress(before: dict[str, int], after: dict[str, int]) -> None:
    """What only fills a queue, or is sent again, moves nothing."""
    assert not made_progress(connection(**before), connection(**after))


@pytest.mark.parametrize("lacking", [(True, False), (False, True), (True, True)])
def test_progress_is_told_by_the_queues_alone_where_tcp_info_is_missing(lacking: tuple[bool, bool]) -> None:
    """Without TCP_INFO a shrinking queue still shows progress, and nothing else does."""
    before, after, smaller = connection(recv=5), connection(recv=5, bytes_acked=99), connection(recv=4, bytes_acked=99)
    before = before._replace(info=None) if lacking[0] else before
    after, smaller = ((s._replace(info=None) if lacking[1] else s) for s in (after, smaller))
    assert [made_progress(before, after), made_progress(before, smaller)] == [False, True]


@pytest.mark.slow
@given(socket_facts())
def test_a_connection_that_did_not_change_made_no_progress(facts: SocketFacts) -> None:
    """Two equal looks show standstill, whatever they show."""
    assert not made_progress(facts, facts)


@pytest.mark.slow
@given(socket_facts(), st.tuples(SECONDS, SECONDS, SECONDS))
def test_time_alone_is_no_progress(facts: SocketFacts, times: tuple[float, float, float]) -> None:
    """Only the ages changed: it stands still."""
    assume(facts.info is not None)
    sent, received, heard = times
    aged = facts._replace(info=facts.info._replace(last_data_sent=sent, last_data_recv=received, last_ack_recv=heard))
    assert not made_progress(facts, aged)
