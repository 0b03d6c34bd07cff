"""All Hypothesis strategies, and the encoders that stand on the kernel's side of each parser.

The encoders are written from the kernel's headers, on purpose by other means than the
parsers (ctypes structures and text formatting against struct formats): a slip has to be
made twice to pass.
"""

import ctypes
import ipaddress
import socket
import struct
from typing import NamedTuple

from hypothesis import strategies as st

from sockguard._core.connection import Activity, Connection, Step, begin, observe
from sockguard._core.facts import Address, Holder, Snapshot, SocketFacts, SocketMemory, TcpInfo, TcpState
from sockguard._core.policy import Policy

U8 = st.integers(0, 2**8 - 1)
U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)

# Addresses

IPV4_HOSTS = st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n)))
MAPPED_HOSTS = IPV4_HOSTS.map("::ffff:".__add__)
IPV6_HOSTS = st.binary(min_size=16, max_size=16).map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw))
HOSTS = st.one_of(IPV4_HOSTS, MAPPED_HOSTS, IPV6_HOSTS)
LOCAL_HOSTS = st.sampled_from(
    ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::", "::1", "fe80::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
)
"""So few that connections and listeners often meet."""


def addresses(hosts: st.SearchStrategy[str] = HOSTS, ports: st.SearchStrategy[int] = U16) -> st.SearchStrategy[Address]:
    """Makes addresses of both families, IPv4-mapped ones among them."""
    return st.builds(Address, hosts, ports)


# TCP_INFO


class KernelTcpInfo(ctypes.Structure):
    """`struct tcp_info` of include/uapi/linux/tcp.h, as of Linux 6.7 (248 bytes)."""

    _fields_ = [
        *((name, ctypes.c_uint8) for name in "state ca_state retransmits probes backoff options wscales bits".split()),
        *((name, ctypes.c_uint32) for name in "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets".split()),
        *((name, ctypes.c_uint32) for name in "last_data_sent last_ack_sent last_data_recv last_ack_recv".split()),
        *((name, ctypes.c_uint32) for name in "pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss".split()),
        *((name, ctypes.c_uint32) for name in "reordering rcv_rtt rcv_space total_retrans".split()),
        *((name, ctypes.c_uint64) for name in "pacing_rate max_pacing_rate bytes_acked bytes_received".split()),
        *((name, ctypes.c_uint32) for name in "segs_out segs_in notsent_bytes min_rtt data_in data_out".split()),
        *((name, ctypes.c_uint64) for name in "delivery_rate busy_time rwnd_limited sndbuf_limited".split()),
        *((name, ctypes.c_uint32) for name in "delivered delivered_ce".split()),
        *((name, ctypes.c_uint64) for name in "bytes_sent bytes_retrans".split()),
        *((name, ctypes.c_uint32) for name in "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash".split()),
        *((name, ctypes.c_uint16) for name in "total_rto total_rto_recoveries".split()),
        ("total_rto_time", ctypes.c_uint32),
    ]


MIN_TCP_INFO = 104
KNOWN_LENGTHS = (104, 120, 136, 144, 148, 160, 192, 200, 216, 224, 232, 240, 248, 280)
"""Lengths at which `struct tcp_info` ended in some kernel, or could well have."""


def expected_tcp_info(raw: bytes) -> TcpInfo:
    """Decodes TCP_INFO by the ctypes structure; fields that do not fit into `raw` are None."""
    size = ctypes.sizeof(KernelTcpInfo)
    kernel = KernelTcpInfo.from_buffer_copy(raw[:size].ljust(size, b"\0"))

    def optional(name: str) -> int | None:
        field = getattr(KernelTcpInfo, name)
        return getattr(kernel, name) if field.offset + field.size <= len(raw) else None

    return TcpInfo(
        state=kernel.state,
        retransmits=kernel.retransmits,
        probes=kernel.probes,
        unacked=kernel.unacked,
        sacked=kernel.sacked,
        last_data_sent=kernel.last_data_sent / 1000,
        last_data_recv=kernel.last_data_recv / 1000,
        last_ack_recv=kernel.last_ack_recv / 1000,
        rtt=kernel.rtt / 1_000_000,
        bytes_acked=optional("bytes_acked"),
        bytes_received=optional("bytes_received"),
        segs_out=optional("segs_out"),
        segs_in=optional("segs_in"),
        notsent_bytes=optional("notsent_bytes"),
        bytes_sent=optional("bytes_sent"),
        bytes_retrans=optional("bytes_retrans"),
    )


TCP_INFO_BYTES = st.sampled_from(KNOWN_LENGTHS).flatmap(lambda n: st.binary(min_size=n, max_size=n))

SECONDS = st.integers(0, 2**32 - 1).map(lambda ms: ms / 1000)
SMALL = st.integers(0, 100)


@st.composite
def tcp_infos(draw: st.DrawFn, state: int | None = None, silences: st.SearchStrategy[float] = SECONDS) -> TcpInfo:
    """Makes TCP_INFO of any kernel: the optional fields are missing from some point on."""
    n_known = draw(st.integers(0, 7))
    counts = [draw(st.one_of(SMALL, U32)) for _ in range(n_known)] + [None] * (7 - n_known)
    return TcpInfo(
        draw(U8) if state is None else state, *draw(st.tuples(U8, U8, U32, U32)), draw(silences), draw(silences),
        draw(silences), draw(SECONDS), *counts,
    )  # fmt: skip


# One socket

MEMORIES = st.builds(SocketMemory, *[U32] * len(SocketMemory._fields))
STATES = st.sampled_from([int(state) for state in TcpState])
QUEUES = st.one_of(st.sampled_from([0, 1, 2, 8, 24, 25]), U32)


@st.composite
def socket_facts(
    draw: st.DrawFn,
    states: st.SearchStrategy[int] = STATES,
    hosts: st.SearchStrategy[str] = HOSTS,
    ports: st.SearchStrategy[int] = U16,
    inodes: st.SearchStrategy[int] = U32,
    netns: st.SearchStrategy[int] = st.just(4026531840),
    silences: st.SearchStrategy[float] = SECONDS,
) -> SocketFacts:
    """Makes the facts of any socket, also such as no kernel would tell."""
    state = draw(states)
    return SocketFacts(
        state=state,
        local=draw(addresses(hosts, ports)),
        remote=draw(st.none() | addresses()),
        inode=draw(inodes),
        cookie=draw(st.none() | U64),
        uid=draw(U32),
        recv_queue=draw(QUEUES),
        send_queue=draw(QUEUES),
        timer=draw(st.integers(0, 4)),
        interface=draw(st.sampled_from([0, 0, 1, 2])),
        netns=draw(netns),
        info=draw(st.none() | tcp_infos(state, silences)),
        memory=draw(st.none() | MEMORIES),
    )


# Snapshots

PIDS = st.integers(1, 9)
"""So few that processes often share a socket, descend from each other, or are asked for."""


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Makes snapshots full of leaks, of any process tree: orphans, strangers and loops too.

    No two sockets are alike, as in the kernel: those with an inode differ by it, those
    without by their cookie.
    """
    some = socket_facts(
        states=st.sampled_from([8, 8, 8, 7, 10, 10, 1, 99]),
        hosts=LOCAL_HOSTS,
        ports=st.sampled_from([80, 443]),
        inodes=st.sampled_from([0, 1]),
        netns=st.sampled_from([4026531840, 4026531840, 7]),
        silences=st.sampled_from([0.0, 0.5, 5.0, 9.999, 10.0, 10.001, 3600.0]),
    )
    sockets = tuple(
        facts._replace(inode=100 + n if facts.inode else 0, cookie=n)
        for n, facts in enumerate(draw(st.lists(some, max_size=8)))
    )
    holders = {}
    for facts in sockets:
        held = draw(st.lists(st.tuples(PIDS, st.integers(0, 30)), max_size=3, unique=True))
        if facts.inode and held:
            holders[facts.inode] = tuple(Holder(pid, fd, f"process {pid}") for pid, fd in sorted(held))
    return Snapshot(0.0, sockets, {}, holders, draw(st.dictionaries(PIDS, st.integers(0, 9), max_size=9)))


# inet_diag over netlink

TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY, NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 18, 20, 1, 2, 3
NLM_F_MULTI, NLM_F_DUMP_INTR = 0x2, 0x10
INET_DIAG_INFO, INET_DIAG_SKMEMINFO = 2, 7


class InetDiagMsg(ctypes.Structure):
    """`struct inet_diag_msg` of include/uapi/linux/inet_diag.h."""

    _fields_ = [
        *((name, ctypes.c_uint8) for name in ("family", "state", "timer", "retrans")),
        ("sport", ctypes.c_uint8 * 2),
        ("dport", ctypes.c_uint8 * 2),
        ("src", ctypes.c_uint8 * 16),
        ("dst", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint32) for name in ("interface", "cookie_low", "cookie_high", "expires")),
        *((name, ctypes.c_uint32) for name in ("rqueue", "wqueue", "uid", "inode")),
    ]


def netlink_message(kind: int, payload: bytes = b"", *, flags: int = NLM_F_MULTI) -> bytes:
    """Frames a payload as `struct nlmsghdr` does, padded to four bytes."""
    length = 16 + len(payload)
    return struct.pack("=IHHII", length, kind, flags, 0, 4711) + payload + bytes(-length % 4)


def attribute(kind: int, payload: bytes) -> bytes:
    """Frames a payload as `struct nlattr` does, padded to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _packed(host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host).ljust(16, b"\0")


def diag_message(
    facts: SocketFacts, attributes: bytes = b"", *, kind: int = TCPDIAG_GETSOCK, flags: int = NLM_F_MULTI
) -> bytes:
    """Encodes one row of a dump as the kernel does; `facts` must have a remote address and a cookie."""
    assert facts.remote and facts.cookie is not None
    message = InetDiagMsg(
        family=socket.AF_INET6 if ":" in facts.local.host else socket.AF_INET,
        state=facts.state,
        timer=facts.timer,
        interface=facts.interface,
        cookie_low=facts.cookie % 2**32,
        cookie_high=facts.cookie // 2**32,
        rqueue=facts.recv_queue,
        wqueue=facts.send_queue,
        uid=facts.uid,
        inode=facts.inode,
    )
    message.sport[:] = facts.local.port.to_bytes(2, "big")
    message.dport[:] = facts.remote.port.to_bytes(2, "big")
    message.src[:] = _packed(facts.local.host)
    message.dst[:] = _packed(facts.remote.host)
    return netlink_message(kind, bytes(message) + attributes, flags=flags)


class Message(NamedTuple):
    """A row as it should come back, and as the kernel writes it."""

    facts: SocketFacts
    data: bytes


UNKNOWN_ATTRIBUTES = st.builds(
    attribute, st.integers(0, 2**16 - 1).filter(lambda kind: kind not in (2, 7)), st.binary(max_size=9)
)
"""Such as INET_DIAG_CONG or INET_DIAG_SHUTDOWN, which come unasked."""


@st.composite
def diag_messages(draw: st.DrawFn) -> Message:
    """Makes well-formed rows of both families, with any attributes, in any order."""
    hosts = draw(st.sampled_from([IPV4_HOSTS, IPV6_HOSTS, MAPPED_HOSTS]))
    row = draw(socket_facts(states=U8, hosts=hosts))._replace(
        remote=draw(addresses(hosts)), cookie=draw(U64), interface=draw(U32), timer=draw(U8), info=None
    )
    attributes = draw(st.lists(UNKNOWN_ATTRIBUTES, max_size=2))
    if raw := draw(st.none() | TCP_INFO_BYTES):
        row = row._replace(info=expected_tcp_info(raw))
        attributes.append(attribute(INET_DIAG_INFO, raw))
    if row.memory:
        attributes.append(attribute(INET_DIAG_SKMEMINFO, struct.pack("=9I", *row.memory)))
    data = diag_message(
        row,
        b"".join(draw(st.permutations(attributes))),
        kind=draw(st.sampled_from([TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY])),
    )
    return Message(row, data)


# /proc/net/tcp

NET_TCP_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def _hexadecimal(address: Address) -> str:
    """Prints an address as `%08X` of each 32-bit word in host order (net/ipv4/tcp_ipv4.c)."""
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address.host else socket.AF_INET, address.host)
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words) + f":{address.port:04X}"


def net_tcp_line(facts: SocketFacts) -> str:
    """Prints one row as `get_tcp4_sock` and `get_tcp6_sock` do, the columns behind the inode included."""
    assert facts.remote
    return (
        f"   0: {_hexadecimal(facts.local)} {_hexadecimal(facts.remote)} {facts.state:02X}"
        f" {facts.send_queue:08X}:{facts.recv_queue:08X} {facts.timer:02X}:00000000 00000000"
        f" {facts.uid:5d}        0 {facts.inode} 1 0000000000000000 100 0 0 10 0\n"
    )


@st.composite
def net_tcp_rows(draw: st.DrawFn) -> SocketFacts:
    """Makes rows with just what /proc/net/tcp tells."""
    hosts = draw(st.sampled_from([IPV4_HOSTS, IPV6_HOSTS, MAPPED_HOSTS]))
    return draw(socket_facts(states=U8, hosts=hosts))._replace(
        timer=draw(U8), remote=draw(addresses(hosts)), cookie=None, interface=0, info=None, memory=None
    )


# Connections of the guard

DYADIC = st.integers(0, 2**14).map(lambda n: n / 64)
"""Instants and spans whose sums and differences are exact, so that laws need no tolerance."""
LIVE_STATES = st.sampled_from([1, 1, 1, 8, 8, 7, 4, 5, 9, 11])
COUNTS = st.sampled_from([0, 0, 1, 2, 100, 2**40])


def policies(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[Policy]:
    """Makes policies with any of the limits on a connection's life; `fields` are drawn from what is given."""
    limits = st.none() | st.sampled_from([0.25, 1.0, 2.5, 10.0, 60.0])
    names = "fin_timeout first_byte_timeout idle_timeout read_idle_timeout write_stall_timeout max_lifetime".split()
    drawn: dict[str, st.SearchStrategy[object]] = dict.fromkeys(names, limits)
    drawn |= {
        "half_close": st.sampled_from(["drain", "close", "allow"]),
        "min_receive_rate": st.sampled_from([None, 1.0, 500.0]),
        "receive_rate_grace": st.sampled_from([0.5, 20.0]),
        "max_lifetime_jitter": st.sampled_from([None, 0.1, 1.0]),
    }
    return st.builds(Policy, **(drawn | fields))


class Moves(NamedTuple):
    """What happens to a connection between two looks."""

    seconds: float
    arrived: int = 0
    read: int = 0
    acked: int = 0
    queued: int = 0
    state: int | None = None
    eof_unread: bool = False

    @property
    def is_still(self) -> bool:
        """Tells whether no byte moved."""
        return not (self.arrived or self.read or self.acked or self.queued)


def looked_at_again(before: Connection, moves: Moves) -> Connection:
    """Adds a look to a history; no more is read or acknowledged than there is."""
    now = before.looked_at + moves.seconds
    unread, unsent = before.unread + moves.arrived, before.unsent + moves.queued
    activity = Activity(
        state=moves.state or before.state,
        received=before.received + moves.arrived,
        acked=before.acked + min(moves.acked, unsent),
        unread=unread - min(moves.read, unread),
        unsent=unsent - min(moves.acked, unsent),
        since_received=moves.seconds / 2 if moves.arrived else now - before.received_at,
        since_heard=moves.seconds / 4,
        eof_unread=moves.eof_unread,
    )
    return observe(before, activity, now)


def moves_within(
    states: st.SearchStrategy[int | None] = st.none(), spans: st.SearchStrategy[float] = DYADIC
) -> st.SearchStrategy[Moves]:
    """Makes what can happen between two looks."""
    return st.builds(Moves, spans, COUNTS, COUNTS, COUNTS, COUNTS, states, st.booleans())


@st.composite
def connections(draw: st.DrawFn, steps: st.SearchStrategy[Step] = st.just(Step.NONE)) -> Connection:
    """Makes connections by looking at them several times, as the guard does."""
    opened_at, age = draw(DYADIC), draw(DYADIC)
    received, acked = draw(COUNTS), draw(COUNTS)
    first = Activity(
        state=draw(LIVE_STATES),
        received=received,
        acked=acked,
        unread=min(draw(COUNTS), received),
        unsent=draw(COUNTS),
        since_received=age / 2,
        since_heard=age / 4,
        eof_unread=draw(st.booleans()),
    )
    connection = begin(
        draw(st.integers(0, 2**40)),
        first,
        opened_at=opened_at,
        now=opened_at + age,
        is_server=draw(st.booleans()),
        has_loop=draw(st.booleans()),
    )
    for moves in draw(st.lists(moves_within(st.none() | LIVE_STATES), max_size=5)):
        connection = looked_at_again(connection, moves)
    step = draw(steps)
    return connection._replace(step=step, stepped_at=connection.looked_at if step else 0.0)
