"""Netlink: captured dumps, made-up ones, damaged ones, and the kernel itself."""

import contextlib
import errno
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captured import DATA, datagrams, dump
from loopback import connect, inode_of, listen, reset, state_of, vanished_peer
from sockguard._core.facts import Address, SocketFacts, SocketMemory, TcpState
from sockguard._kernel.inet_diag import ALL_STATES, DiagReply, destroy_socket, open_diag, parse_dump, read_sockets
from sockguard._kernel.one_socket import read_cookie
from sockguard.errors import InternalError, KernelUnavailable
from strategies import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Message,
    attribute,
    diag_message,
    diag_messages,
    expected_tcp_info,
    netlink_message,
)
from waiting import eventually

VERSION = "6.18"
FULL, PLAIN = f"inet_diag-{VERSION}-old-full.bin", f"inet_diag-{VERSION}-old-plain.bin"
CAPTURED = sorted(path.name for path in DATA.glob("inet_diag-*.bin") if "refused" not in path.name)
DONE = netlink_message(NLMSG_DONE, bytes(4))
LOCAL, REMOTE = Address("127.0.0.1", 8000), Address("127.0.0.1", 50002)
ROW = SocketFacts(8, LOCAL, REMOTE, 3660, 8202, 1000, 5, 0, 2, 1, 0, None)


def rows_of(name: str) -> dict[tuple[Address, Address | None], SocketFacts]:
    """The rows of a captured dump by their two addresses."""
    return {(row.local, row.remote): row for row in parse_dump(dump(name)).sockets}


def row_at(name: str, local: tuple[str, int], remote: tuple[str, int]) -> SocketFacts:
    return rows_of(name)[Address(*local), Address(*remote)]


# Captured dumps


def test_dumps_were_captured() -> None:
    """The captured files are there: a test of none of them would pass in silence."""
    assert {name.removeprefix(f"inet_diag-{VERSION}-").removesuffix(".bin") for name in CAPTURED} == {
        "old-plain", "old-full", "old-sick-info", "old-sick-memory", "new-plain", "new-full",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", [FULL, PLAIN, f"inet_diag-{VERSION}-new-full.bin", f"inet_diag-{VERSION}-new-plain.bin"]
)
def test_every_socket_that_was_made_is_in_the_captured_dump(name: str) -> None:
    """The twenty sockets of the capture come back, each in its state, IPv4, IPv6 and mapped."""
    replies = [parse_dump(datagram) for datagram in datagrams(name)]
    rows = [row for reply in replies for row in reply.sockets]
    v4, v6, mapped, any4, any6 = "127.0.0.1", "::1", "::ffff:127.0.0.1", ("0.0.0.0", 0), ("::", 0)
    seen = sorted((row.state_name, tuple(row.local), tuple(row.remote)) for row in rows)
    assert seen == sorted(
        [
            ("LISTEN", (v4, 8000), any4),
            ("ESTABLISHED", (v4, 8000), (v4, 50001)),
            ("ESTABLISHED", (v4, 50001), (v4, 8000)),
            ("CLOSE_WAIT", (v4, 8000), (v4, 50002)),
            ("FIN_WAIT2", (v4, 50002), (v4, 8000)),
            ("ESTABLISHED", (v4, 8000), (v4, 50003)),
            ("ESTABLISHED", (v4, 50003), (v4, 8000)),
            ("CLOSE_WAIT", (v4, 8000), (v4, 50004)),
            ("FIN_WAIT2", (v4, 50004), (v4, 8000)),
            ("LISTEN", (v6, 8001), any6),
            ("ESTABLISHED", (v6, 8001), (v6, 50005)),
            ("ESTABLISHED", (v6, 50005), (v6, 8001)),
            ("TIME_WAIT", (v6, 50006), (v6, 8001)),
            ("LISTEN", ("::", 8002), any6),
            ("CLOSE_WAIT", (mapped, 8002), (mapped, 50007)),
            ("FIN_WAIT2", (v4, 50007), (v4, 8002)),
            ("LISTEN", (v4, 8003), any4),
            ("ESTABLISHED", (v4, 8003), (v4, 50008)),
            ("ESTABLISHED", (v4, 50008), (v4, 8003)),
            ("SYN_SENT", (v4, 50009), (v4, 8003)),
        ]
    )


def test_captured_close_wait_tells_its_queue_and_identity() -> None:
    """Four bytes and the FIN are unread; the accepted one has an inode, the waiting one has none."""
    accepted = row_at(FULL, ("127.0.0.1", 8000), ("127.0.0.1", 50002))
    waiting = row_at(FULL, ("127.0.0.1", 8000), ("127.0.0.1", 50004))
    assert (accepted.recv_queue, accepted.unread, accepted.send_queue, accepted.inode > 0) == (5, 4, 0, True)
    assert (waiting.recv_queue, waiting.unread, waiting.inode) == (1, 0, 0)
    assert accepted.cookie and waiting.cookie and accepted.cookie != waiting.cookie
    assert accepted.info and 0.25 < accepted.info.last_ack_recv < 2


def test_captured_listener_tells_its_queue_and_backlog() -> None:
    """Two connections wait of at most eight; one of at most none waits at the full queue."""
    listener = row_at(FULL, ("127.0.0.1", 8000), ("0.0.0.0", 0))
    full = row_at(FULL, ("127.0.0.1", 8003), ("0.0.0.0", 0))
    assert (listener.recv_queue, listener.send_queue, full.recv_queue, full.send_queue) == (2, 8, 1, 0)


def test_captured_timers() -> None:
    """A SYN that is sent again runs the retransmission timer, TIME_WAIT its own, a quiet connection none."""
    assert row_at(FULL, ("127.0.0.1", 50009), ("127.0.0.1", 8003)).timer == 1
    assert row_at(FULL, ("::1", 50006), ("::1", 8001)).timer == 3
    assert row_at(FULL, ("127.0.0.1", 8000), ("127.0.0.1", 50001)).timer == 0


def test_captured_attributes_come_as_they_were_asked_for() -> None:
    """INFO and SKMEMINFO are there where they were asked for, and None where not."""
    key = (Address("127.0.0.1", 8000), Address("127.0.0.1", 50002))
    got = {
        name: rows_of(f"inet_diag-{VERSION}-{name}.bin")[key]
        for name in ("old-full", "old-plain", "old-sick-info", "old-sick-memory")
    }
    assert {name: (row.info is not None, row.memory is not None) for name, row in got.items()} == {
        "old-full": (True, True),
        "old-plain": (False, False),
        "old-sick-info": (True, False),
        "old-sick-memory": (False, True),
    }
    assert got["old-full"].memory.receive_buffer > 0


def test_captured_time_wait_has_no_info() -> None:
    """A connection in TIME_WAIT is but a stub in the kernel, without TCP_INFO, inode or owner."""
    row = row_at(FULL, ("::1", 50006), ("::1", 8001))
    assert (row.info, row.memory, row.inode, row.uid) == (None, None, 0, 0)


@pytest.mark.parametrize("form", ["plain", "full"])
def test_both_request_kinds_were_answered_with_the_same_rows(form: str) -> None:
    """One walk for both families tells the same as one for each: but for ages, which went on."""
    old, new = (
        {row._replace(info=None) for row in parse_rows(f"inet_diag-{VERSION}-{kind}-{form}.bin")}
        for kind in ("old", "new")
    )
    assert old == new


def parse_rows(name: str) -> list[SocketFacts]:
    return [row for datagram in datagrams(name) for row in parse_dump(datagram).sockets]


def test_attributes_can_be_left_undecoded() -> None:
    """The same rows come back without what was not asked to be decoded."""
    plain = [row._replace(info=None, memory=None) for row in parse_dump(dump(FULL)).sockets]
    assert parse_dump(dump(FULL), with_attributes=False).sockets == plain


def test_rows_are_labelled_with_the_namespace_that_was_asked() -> None:
    """Two namespaces may have the same addresses, so each row says where it is from."""
    assert {row.netns for row in parse_dump(dump(FULL), 4026531840).sockets} == {4026531840}


def test_captured_refusal_is_an_os_error() -> None:
    """A request that is too short was refused with EINVAL, and that is what is raised."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        parse_dump(dump(f"inet_diag-{VERSION}-refused.bin"))
    assert caught.value.errno == errno.EINVAL


# Well-formed messages


@pytest.mark.slow
@given(st.lists(diag_messages(), max_size=5), st.integers(0, 2**32 - 1))
def test_every_row_comes_back_as_it_was_written(messages: list[Message], netns: int) -> None:
    """No row is dropped, changed or brought out of order, whatever its attributes."""
    reply = parse_dump(b"".join(message.data for message in messages) + DONE, netns)
    expected = [message.facts._replace(netns=netns) for message in messages]
    assert reply == DiagReply(expected, is_last=True, is_interrupted=False)


@pytest.mark.slow
@given(st.lists(diag_messages(), max_size=5), st.integers(0, 5))
def test_rows_may_come_in_any_number_of_datagrams(messages: list[Message], cut: int) -> None:
    """Only the datagram with DONE is the last one; together they hold every row once."""
    first = parse_dump(b"".join(message.data for message in messages[:cut]))
    second = parse_dump(b"".join(message.data for message in messages[cut:]) + DONE)
    assert [row._replace(netns=0) for row in first.sockets + second.sockets] == [
        m.facts._replace(netns=0) for m in messages
    ]
    assert (first.is_last, second.is_last) == (False, True)


def test_nothing_is_read_beyond_done() -> None:
    """What follows the end of a dump is no part of it."""
    assert parse_dump(DONE + diag_message(ROW)) == DiagReply([], is_last=True, is_interrupted=False)


def test_last_message_may_lack_its_padding() -> None:
    """A message whose length is no multiple of four need not be padded at the end of the datagram."""
    data = diag_message(ROW, struct.pack("=HH", 5, 99) + b"x")
    unpadded = data[: struct.unpack_from("=I", data)[0]]
    assert len(unpadded) % 4 == 1
    assert parse_dump(unpadded).sockets == [ROW]


def test_done_without_a_status_ends_the_dump() -> None:
    """Old kernels send DONE with nothing in it."""
    assert parse_dump(netlink_message(NLMSG_DONE)).is_last


def test_noop_is_skipped() -> None:
    """NLMSG_NOOP says nothing and changes nothing."""
    assert parse_dump(netlink_message(NLMSG_NOOP) + diag_message(ROW)).sockets == [ROW]


def test_short_memory_attribute_of_an_old_kernel_is_filled_with_zeros() -> None:
    """Before the drop counter there were eight numbers; the ninth is told as 0."""
    (row,) = parse_dump(diag_message(ROW, attribute(7, struct.pack("=8I", *range(1, 9))))).sockets
    assert row.memory == SocketMemory(1, 2, 3, 4, 5, 6, 7, 8, 0)


def test_long_memory_attribute_of_a_newer_kernel_is_cut() -> None:
    """Numbers that are not known yet are left out."""
    (row,) = parse_dump(diag_message(ROW, attribute(7, struct.pack("=11I", *range(1, 12))))).sockets
    assert row.memory == SocketMemory(*range(1, 10))


@pytest.mark.parametrize("position", ["row", "done"])
def test_interrupted_dump_is_told(position: str) -> None:
    """The kernel marks a message, any of them, when its table changed under the dump."""
    flags = {"row": 2, "done": 2} | {position: 2 | NLM_F_DUMP_INTR}
    data = diag_message(ROW, flags=flags["row"]) + netlink_message(NLMSG_DONE, bytes(4), flags=flags["done"])
    assert parse_dump(data) == DiagReply([ROW], is_last=True, is_interrupted=True)


def test_no_other_flag_means_interrupted() -> None:
    """Every flag but NLM_F_DUMP_INTR says something else."""
    data = diag_message(ROW, flags=0xFFFF & ~NLM_F_DUMP_INTR)
    assert parse_dump(data) == DiagReply([ROW], is_last=False, is_interrupted=False)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.ENOMEM])
@pytest.mark.parametrize("kind", [NLMSG_ERROR, NLMSG_DONE])
def test_refusal_carries_its_error_number(number: int, kind: int) -> None:
    """NLMSG_ERROR, or a DONE with a status, raises the OSError of that number, rows or not."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        parse_dump(diag_message(ROW) + netlink_message(kind, struct.pack("=i", -number) + bytes(16)))
    assert caught.value.errno == number


def test_acknowledgement_is_no_error() -> None:
    """NLMSG_ERROR with status 0 says that all went well."""
    assert parse_dump(netlink_message(NLMSG_ERROR, bytes(20))) == DiagReply([], is_last=True, is_interrupted=False)


@pytest.mark.parametrize("status", [1, 2**31 - 1, -(2**31), -4096])
def test_status_that_is_no_error_number_is_an_os_error_all_the_same(status: int) -> None:
    """A number that has no name still raises, so that it is not taken for success."""
    with pytest.raises(OSError, match=f"netlink status {status}"):
        parse_dump(netlink_message(NLMSG_ERROR, struct.pack("=i", status)))


# Damage


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(netlink_message(99), id="unknown type"),
        pytest.param(netlink_message(0), id="type 0"),
        pytest.param(netlink_message(21, bytes(72)), id="SOCK_DESTROY is no answer"),
        pytest.param(bytes(15), id="no whole header"),
        pytest.param(struct.pack("=IHHII", 0, 20, 0, 0, 0), id="length 0 would never advance"),
        pytest.param(struct.pack("=IHHII", 15, 3, 0, 0, 0), id="length below the header"),
        pytest.param(struct.pack("=IHHII", 17, 3, 0, 0, 0), id="length beyond the end"),
        pytest.param(struct.pack("=IHHII", 2**32 - 1, 20, 0, 0, 0) + bytes(72), id="length -1"),
        pytest.param(netlink_message(20, bytes(71)), id="a row one byte short"),
        pytest.param(
            struct.pack("=I", 84) + diag_message(ROW)[4:84] + diag_message(ROW),
            id="a row short, with another behind it",
        ),
        pytest.param(netlink_message(20, bytes(72)), id="address family 0"),
        pytest.param(netlink_message(NLMSG_ERROR, bytes(3)), id="error without number"),
        pytest.param(diag_message(ROW, struct.pack("=HH", 3, 2)), id="attribute shorter than its header"),
        pytest.param(diag_message(ROW, struct.pack("=HH", 0, 2)), id="attribute of length 0 would never advance"),
        pytest.param(diag_message(ROW, struct.pack("=HH", 9, 2) + bytes(4)), id="attribute beyond the end"),
        pytest.param(diag_message(ROW, b"\4\0")[:-2], id="half an attribute header"),
        pytest.param(diag_message(ROW, attribute(2, bytes(103))), id="TCP_INFO shorter than any"),
    ],
)
def test_malformed_answer_is_refused(data: bytes) -> None:
    """What cannot be understood raises; no row is dropped in silence."""
    for before in (b"", diag_message(ROW)):
        with pytest.raises(InternalError):
            parse_dump(before + data)


def judged(data: bytes) -> DiagReply | None:
    """Parses damaged bytes; None if they were refused in one of the two documented ways."""
    try:
        return parse_dump(data)
    except (InternalError, OSError):
        return None


def boundaries(data: bytes) -> dict[int, int]:
    """Where a whole message ends: offset -> the number of messages up to there."""
    found, offset = {0: 0}, 0
    while offset < len(data):
        offset += (struct.unpack_from("=I", data, offset)[0] + 3) & ~3
        found[offset] = len(found)
    return found


@pytest.mark.parametrize("name", [FULL, PLAIN, f"inet_diag-{VERSION}-old-sick-memory.bin"])
def test_every_truncation_is_refused_or_told_as_unfinished(name: str) -> None:
    """Cut anywhere, a dump is refused, or has all rows before the cut and is not said to be whole."""
    data = datagrams(name)[0]
    rows, whole = parse_dump(data).sockets, boundaries(data)
    for end in range(len(data)):
        reply = judged(data[:end])
        assert (reply is not None) == (end in whole), end
        if reply is not None:
            assert (reply.sockets, reply.is_last) == (rows[: whole[end]], False)


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_understood(data: bytes) -> None:
    """Any bytes at all come to an end, by a reply or one of the documented errors."""
    reply = judged(data)
    assert reply is None or len(reply.sockets) * 88 <= len(data)


@pytest.mark.slow
@given(st.lists(diag_messages(), min_size=1, max_size=3), st.data())
def test_damage_to_made_up_messages_hides_no_row_before_it(messages: list[Message], data: st.DataObject) -> None:
    """Whatever a message is overwritten with, the rows before it come back, or all is refused."""
    intact = [message.facts for message in messages]
    victim = data.draw(st.integers(0, len(messages) - 1))
    damaged = bytearray(messages[victim].data)
    for position, byte in data.draw(
        st.dictionaries(st.integers(0, len(damaged) - 1), st.integers(0, 255), min_size=1)
    ).items():
        damaged[position] = byte
    before = b"".join(message.data for message in messages[:victim])
    reply = judged(before + bytes(damaged) + DONE)
    assert reply is None or [r._replace(netns=0) for r in reply.sockets[:victim]] == [
        r._replace(netns=0) for r in intact[:victim]
    ]


@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.parametrize("seed", range(4))
def test_bit_flips_hide_no_row_before_them(name: str, seed: int) -> None:
    """One flipped bit anywhere in a real dump: all rows before it are right, or the dump is refused."""
    randomness = random.Random(f"{name} {seed}")
    data = datagrams(name)[0]
    rows, whole = parse_dump(data).sockets, boundaries(data)
    for _ in range(250):
        damaged = bytearray(data)
        position = randomness.randrange(len(data))
        damaged[position] ^= 1 << randomness.randrange(8)
        reply = judged(bytes(damaged))
        n_before = max(n for offset, n in whole.items() if offset <= position)
        assert reply is None or reply.sockets[:n_before] == rows[:n_before], position


# The conversation, with a socket pair whose other end plays the kernel

ANSWER = datagrams(FULL)


def interrupted(answer: list[bytes]) -> list[bytes]:
    """The same datagrams with NLM_F_DUMP_INTR in the first message of each."""
    return [d[:6] + struct.pack("=H", struct.unpack_from("=H", d, 6)[0] | NLM_F_DUMP_INTR) + d[8:] for d in answer]


def refusal(number: int) -> list[bytes]:
    return [netlink_message(NLMSG_ERROR, struct.pack("=i", -number) + bytes(16))]


@contextlib.contextmanager
def playing_kernel(answer_to: Callable[[int, bytes], list[bytes]]) -> Iterator[tuple[socket.socket, list[bytes]]]:
    """Lends a socket behind which `answer_to(number of the request, request)` answers; and the requests."""
    requests: list[bytes] = []
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def answer() -> None:
        while request := kernels.recv(1 << 16):
            requests.append(request)
            for datagram in answer_to(len(requests), request):
                kernels.send(datagram)

    thread = threading.Thread(target=answer)
    thread.start()
    with kernels:
        try:
            with ours:
                ours.settimeout(20)
                yield ours, requests
        finally:
            thread.join(20)


def kind_of(request: bytes) -> int:
    return struct.unpack_from("=H", request, 4)[0]


def test_played_kernel_answers_like_the_real_one() -> None:
    """Captured datagrams, asked for once, come back as rows."""
    with playing_kernel(lambda *_: ANSWER) as (diag, requests):
        rows = read_sockets(diag, ALL_STATES, netns=7, with_info=True, with_memory=True)
    assert rows == [row for datagram in ANSWER for row in parse_dump(datagram, 7).sockets]
    assert len(requests) == 1


@pytest.mark.parametrize("n_interrupted", [1, 2, 3])
def test_interrupted_dump_is_asked_for_again(n_interrupted: int) -> None:
    """Only the last, undisturbed answer counts: no row comes twice."""
    with playing_kernel(lambda n, _: interrupted(ANSWER) if n <= n_interrupted else ANSWER) as (diag, requests):
        rows = read_sockets(diag, ALL_STATES, with_info=True)
    assert len(rows) == 20
    assert len(requests) == n_interrupted + 1


def test_table_that_never_rests_gives_its_last_answer() -> None:
    """After a few interrupted dumps the last one stands: a busy server is still reported on."""
    with playing_kernel(lambda *_: interrupted(ANSWER)) as (diag, requests):
        rows = read_sockets(diag, ALL_STATES, with_info=True)
    assert len(rows) == 20
    assert 2 <= len(requests) <= 10


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT])
def test_newer_request_is_used_where_the_older_is_refused(number: int) -> None:
    """A kernel without TCPDIAG_GETSOCK is asked once for each family instead."""
    answers = datagrams(f"inet_diag-{VERSION}-new-full.bin")
    n_first = next(n for n, datagram in enumerate(answers, start=1) if parse_dump(datagram).is_last)
    families = {socket.AF_INET: answers[:n_first], socket.AF_INET6: answers[n_first:]}

    def answer(_: int, request: bytes) -> list[bytes]:
        return refusal(number) if kind_of(request) == 18 else families[request[16]]

    with playing_kernel(answer) as (diag, requests):
        rows = read_sockets(diag, ALL_STATES, with_info=True, with_memory=True)
    assert [kind_of(request) for request in requests] == [18, 20, 20]
    assert [request[16] for request in requests[1:]] == [socket.AF_INET, socket.AF_INET6]
    assert {row._replace(info=None) for row in rows} == {
        row._replace(info=None) for row in parse_dump(dump(FULL)).sockets
    }


@pytest.mark.parametrize(("number", "n_asked"), [(errno.EPERM, 1), (errno.EACCES, 1), (errno.EINVAL, 2)])
def test_refusal_of_every_request_is_reported(number: int, n_asked: int) -> None:
    """Where netlink answers nothing, the error says so and what is done instead; EPERM is not tried twice."""
    with playing_kernel(lambda *_: refusal(number)) as (diag, requests), pytest.raises(KernelUnavailable) as caught:
        read_sockets(diag, ALL_STATES)
    assert len(requests) == n_asked
    assert os.strerror(number) in caught.value.reason
    assert "/proc/net/tcp" in caught.value.remedy


def test_kernel_that_falls_silent_is_not_waited_for() -> None:
    """A dump that stops in the middle ends in an error when the socket's receive time is over."""
    with playing_kernel(lambda *_: [diag_message(ROW)]) as (diag, _):
        diag.settimeout(None)
        diag.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))  # as open_diag does
        with pytest.raises(KernelUnavailable, match="temporarily unavailable"):
            read_sockets(diag, ALL_STATES)


def test_damaged_answer_is_our_bug_not_a_missing_feature() -> None:
    """An answer that cannot be read is told as such, instead of being covered by another door."""
    with playing_kernel(lambda *_: [netlink_message(99)]) as (diag, _), pytest.raises(InternalError):
        read_sockets(diag, ALL_STATES)


# The real kernel


def own_rows(rows: list[SocketFacts], *sockets: socket.socket) -> dict[int, SocketFacts]:
    """Those rows that belong to these sockets, by inode: others run on this machine too."""
    inodes = {inode_of(sock) for sock in sockets}
    return {row.inode: row for row in rows if row.inode in inodes}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_real_connection_is_listed_as_it_is(family: socket.AddressFamily) -> None:
    """Addresses, inode, cookie, owner, queues and TCP_INFO agree with what the socket itself says."""
    with vanished_peer(family, sent=b"hello") as connection, open_diag() as diag:
        rows = read_sockets(diag, ALL_STATES, netns=7, with_info=True, with_memory=True)
        row = own_rows(rows, connection.server)[inode_of(connection.server)]
        raw = connection.server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
        assert (row.local, row.remote) == (
            Address(*connection.server.getsockname()[:2]),
            Address(*connection.server.getpeername()[:2]),
        )
        assert (row.state, row.recv_queue, row.send_queue) == (TcpState.CLOSE_WAIT, 6, 0)
        assert (row.cookie, row.uid, row.netns) == (read_cookie(connection.server), os.getuid(), 7)
        told = expected_tcp_info(raw)
        assert row.info.bytes_received == told.bytes_received == 6
        assert 0 <= told.last_ack_recv - row.info.last_ack_recv < 5
        assert row.memory.receive_buffer > 0


def test_kernel_filters_by_state() -> None:
    """Only the states that were asked for come back; every one of them does."""
    with connect() as connection, vanished_peer() as gone, open_diag() as diag:
        mine = (*connection, gone.listener, gone.server)
        by_state = {state: own_rows(read_sockets(diag, [state]), *mine) for state in (1, 8, 10)}
        assert {state: set(rows) for state, rows in by_state.items()} == {
            1: {inode_of(connection.client), inode_of(connection.server)},
            8: {inode_of(gone.server)},
            10: {inode_of(connection.listener), inode_of(gone.listener)},
        }
        assert all(row.state == state for state, rows in by_state.items() for row in rows.values())


def test_what_is_not_wanted_is_left_out() -> None:
    """Each row is asked about once, and only those for which it is true come back."""
    asked = []
    with connect() as connection, open_diag() as diag:
        wanted = inode_of(connection.server)
        rows = read_sockets(diag, [1], wanted=lambda row: asked.append(row.inode) or row.inode == wanted)
        assert [row.inode for row in rows] == [wanted]
        assert {wanted, inode_of(connection.client)} <= set(asked)
        assert len(asked) == len(set(asked) - {0}) + asked.count(0)


def test_both_request_kinds_are_answered_alike() -> None:
    """Contract of the real kernel: TCPDIAG_GETSOCK tells of both families what SOCK_DIAG_BY_FAMILY tells of each."""

    def without(answers: Iterator[SocketFacts], *sockets: socket.socket) -> dict[int, SocketFacts]:
        return {inode: row._replace(info=None) for inode, row in own_rows(list(answers), *sockets).items()}

    with connect() as one, vanished_peer(socket.AF_INET6) as other, open_diag() as diag, open_diag() as real:
        mine = (*one, other.listener, other.server)

        def relay(_: int, request: bytes) -> list[bytes]:
            if kind_of(request) == 18:
                return refusal(errno.EINVAL)
            real.send(request)
            answer = [real.recv(1 << 16)]
            while not parse_dump(answer[-1]).is_last:
                answer.append(real.recv(1 << 16))
            return answer

        old = without(read_sockets(diag, ALL_STATES, with_info=True), *mine)
        with playing_kernel(relay) as (middle, requests):
            new = without(read_sockets(middle, ALL_STATES, with_info=True), *mine)
        assert [kind_of(request) for request in requests[:3]] == [18, 20, 20]
        assert old == new
        assert set(old) == {inode_of(sock) for sock in mine}


def test_connection_in_the_accept_queue_has_no_inode() -> None:
    """Until accept() a connection belongs to no file, hence its inode is 0; then it gets one."""
    with listen() as listener, socket.create_connection(listener.getsockname()) as client, open_diag() as diag:
        key = Address(*listener.getsockname()), Address(*client.getsockname())

        def row() -> SocketFacts:
            (found,) = [r for r in read_sockets(diag, [TcpState.ESTABLISHED]) if (r.local, r.remote) == key]
            return found

        before = row()
        server, _ = listener.accept()
        with server:
            after = row()
            assert (before.inode, after.inode) == (0, inode_of(server))
            assert before.cookie == after.cookie == read_cookie(server)


@pytest.mark.parametrize("states", [[], [TcpState.BOUND_INACTIVE]])
def test_sockets_in_no_state_asked_for_are_not_listed(states: list[int]) -> None:
    """An empty choice lists nothing; a state that this kernel may not know lists no connection."""
    with connect() as connection, open_diag() as diag:
        assert own_rows(read_sockets(diag, states), *connection) == {}


def test_kernel_is_not_waited_for_without_end() -> None:
    """The netlink socket has a receive time-out of seconds, so no dump can hang a program."""
    with open_diag() as diag:
        seconds, _ = struct.unpack("@ll", diag.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
    assert 1 <= seconds <= 10


def test_descriptor_is_not_inherited() -> None:
    """A child of the process must not get the netlink socket."""
    with open_diag() as diag:
        assert not diag.get_inheritable()


def test_refused_netlink_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no netlink socket can be made, the error names the feature and the reason."""

    def refuse(*_: object) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("sockguard._kernel.inet_diag._Socket", refuse)
    with pytest.raises(KernelUnavailable, match=r"netlink.*refused with Operation not permitted"):
        open_diag()


def test_system_without_netlink_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system has no such sockets at all."""
    monkeypatch.delattr(socket, "AF_NETLINK")
    with pytest.raises(KernelUnavailable, match="is not Linux"):
        open_diag()


# SOCK_DESTROY


def can_destroy() -> bool:
    """Tells whether SOCK_DESTROY works here: CAP_NET_ADMIN, and a kernel that was built with it."""
    with vanished_peer() as connection, open_diag() as diag:
        (row,) = own_rows(read_sockets(diag, [TcpState.CLOSE_WAIT]), connection.server).values()
        try:
            destroy_socket(diag, row)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
                return False
            raise
        return True


@pytest.fixture
def allowed_to_destroy() -> None:
    if not can_destroy():
        pytest.skip("SOCK_DESTROY needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY")


@contextlib.contextmanager
def never_accepted(
    family: socket.AddressFamily, host: str | None = None
) -> Iterator[tuple[socket.socket, SocketFacts]]:
    """Makes a CLOSE_WAIT connection that waits at a listener; yields listener and row."""
    with listen(family, host) as listener, open_diag() as diag:
        port = listener.getsockname()[1]
        target = "127.0.0.1" if host == "::" else listener.getsockname()[0]
        socket.create_connection((target, port)).close()

        def row() -> list[SocketFacts]:
            return [r for r in read_sockets(diag, [TcpState.CLOSE_WAIT]) if r.local.port == port]

        yield listener, eventually(row)[0]


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, None), (socket.AF_INET6, None), (socket.AF_INET6, "::")],
    ids=["IPv4", "IPv6", "IPv4-mapped"],
)
@pytest.mark.usefixtures("allowed_to_destroy")
def test_destroy_ends_a_connection_that_was_never_accepted(family: socket.AddressFamily, host: str | None) -> None:
    """It leaves every table, though no descriptor of it exists; a second time there is nothing to hit."""
    with never_accepted(family, host) as (_, row), open_diag() as diag:
        assert row.inode == 0
        destroy_socket(diag, row)
        cookies = {r.cookie for r in read_sockets(diag, ALL_STATES)}
        assert row.cookie not in cookies
        with pytest.raises(FileNotFoundError):
            destroy_socket(diag, row)


@pytest.mark.usefixtures("allowed_to_destroy")
def test_destroy_of_another_cookie_hits_nothing() -> None:
    """At the same addresses, but not the same connection: ENOENT, and it lives on."""
    with never_accepted(socket.AF_INET) as (_, row), open_diag() as diag:
        for cookie in (row.cookie + 1, row.cookie ^ 1 << 40):
            with pytest.raises(OSError, match="No such file") as caught:
                destroy_socket(diag, row._replace(cookie=cookie))
            assert caught.value.errno == errno.ENOENT
        assert row.cookie in {r.cookie for r in read_sockets(diag, [TcpState.CLOSE_WAIT])}


@pytest.mark.usefixtures("allowed_to_destroy")
def test_destroy_of_an_accepted_connection_leaves_its_descriptor() -> None:
    """The owner keeps the descriptor, and finds the connection aborted."""
    with connect() as connection, open_diag() as diag:
        (row,) = own_rows(read_sockets(diag, [TcpState.ESTABLISHED]), connection.server).values()
        destroy_socket(diag, row)
        assert state_of(connection.server) == TcpState.CLOSE
        with pytest.raises(ConnectionAbortedError):
            connection.server.recv(1)


def test_destroy_is_refused_without_the_right() -> None:
    """What the kernel answers is passed on as the OSError that it is."""
    with playing_kernel(lambda *_: refusal(errno.EPERM)) as (diag, _), pytest.raises(PermissionError):
        destroy_socket(diag, ROW)


@pytest.mark.parametrize("missing", ["remote", "cookie"])
def test_destroy_needs_both_ends_and_the_cookie(missing: str) -> None:
    """A connection that is not fully known is not shot at: nothing is even sent."""
    with (
        playing_kernel(lambda *_: refusal(errno.EPERM)) as (diag, requests),
        pytest.raises(ValueError, match="both ends and its cookie"),
    ):
        destroy_socket(diag, ROW._replace(**{missing: None}))  # type: ignore[arg-type]
    assert requests == []


def test_dead_connection_is_in_no_table() -> None:
    """A connection that was reset is no longer listed, while its descriptor is open: no dump tells of it."""
    with connect() as connection, open_diag() as diag:
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == TcpState.CLOSE)
        assert own_rows(read_sockets(diag, ALL_STATES), connection.server) == {}
