"""What the kernel says of sockets and processes: frozen records, in seconds and bytes.

Nothing here asks the kernel. `_kernel` fills these records, so a test can make any
situation in a line. They are named tuples, not dataclasses, because a table of 16,000
sockets builds one or more for each, and a tuple is built five times faster.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "LEAK_STATES",
    "Address",
    "Holder",
    "ProcessFacts",
    "Snapshot",
    "SocketFacts",
    "SocketMemory",
    "TcpInfo",
    "TcpState",
    "Unseen",
]


class TcpState(IntEnum):
    """The kernel's numbers for TCP states (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13
    """Bound and neither listening nor connected; listed since Linux 6.7."""


LEAK_STATES = frozenset({TcpState.CLOSE_WAIT, TcpState.CLOSE})
"""States in which a leak can be: the peer hung up, or the connection is over and its descriptor is not."""

_STATE_NAMES = {state.value: state.name for state in TcpState}


class Address(NamedTuple):
    """An IP address and a port, as the kernel keeps them."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Tells whether a listener here takes connections to any local address."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

    @property
    def unmapped(self) -> "Address":
        """The same address with an IPv4-mapped IPv6 host (::ffff:192.0.2.1) as plain IPv4."""
        if self.host.startswith("::ffff:") and "." in self.host:
            return Address(self.host[7:], self.port)
        return self


class Names(NamedTuple):
    """Both ends of a socket: addresses, of a Unix socket paths; None for one that is not known."""

    local: Address | str | None
    remote: Address | str | None


class TcpInfo(NamedTuple):
    """The part of `struct tcp_info` (include/uapi/linux/tcp.h) that decisions use.

    A field is None where the running kernel is too old to tell it. Times are seconds
    *ago* at the moment of reading, byte counts run since the connection was made.
    """

    state: int
    retransmits: int
    """Retransmissions of the segment at the head of the send queue, now."""
    probes: int
    """Unanswered keepalive or zero-window probes, now."""
    unacked: int
    """Segments in flight; of a listener: connections waiting to be accepted."""
    sacked: int
    """Segments selectively acknowledged; of a listener: its backlog."""
    last_data_sent: float
    """Renewed by retransmissions too."""
    last_data_recv: float
    last_ack_recv: float
    """Since the peer's last acceptable packet; a FIN counts, a keepalive probe of its does not."""
    rtt: float
    bytes_acked: int | None
    """Counts the SYN of an active open: see `_core.leaks.side_of`."""
    bytes_received: int | None
    """In-order arrivals, the FIN counted as one."""
    segs_out: int | None
    segs_in: int | None
    notsent_bytes: int | None
    bytes_sent: int | None
    """Payload handed to IP, retransmissions included (Linux 4.19)."""
    bytes_retrans: int | None

    @property
    def was_refused(self) -> bool:
        """Tells of a socket in state CLOSE whether its connect() was refused: it got one packet, and no round trip."""
        return self.segs_in == 1 and self.rtt == 0 and not self.bytes_acked


class SocketMemory(NamedTuple):
    """Buffer memory of one socket in bytes (INET_DIAG_SKMEMINFO; `skmem:` in `ss -m`)."""

    receive_allocated: int
    receive_buffer: int
    send_allocated: int
    send_buffer: int
    forward_allocated: int
    send_queued: int
    option_memory: int
    backlog: int
    drops: int


class SocketFacts(NamedTuple):
    """One TCP socket as the kernel's tables show it."""

    state: int
    """A `TcpState` number; kept plain so that an unknown one of a newer kernel survives."""
    local: Address
    remote: Address | None
    """None where the kernel no longer tells (a dead descriptor has no peer name)."""
    inode: int
    """The number in `/proc/PID/fd` links; 0 as long as no process has accepted it."""
    cookie: int | None
    """SO_COOKIE, `sk:` in `ss -e`: identifies the socket for its lifetime. None from procfs."""
    uid: int
    recv_queue: int
    """Bytes unread, the FIN counted as one; of a listener: connections waiting."""
    send_queue: int
    """Bytes not yet acknowledged; of a listener: its backlog."""
    timer: int
    """Which timer runs: 0 none, 1 retransmit, 2 keepalive or SYN, 3 TIME_WAIT, 4 zero window."""
    interface: int
    """Index of the interface that the socket is bound to, 0 for none."""
    netns: int
    """Inode of the network namespace that it lives in, 0 if not known."""
    info: TcpInfo | None
    memory: SocketMemory | None = None
    still_for: float | None = None
    """Seconds for which it was watched and did not move; None if it was looked at once."""

    @property
    def state_name(self) -> str:
        """The state in capitals, or its bare number if this kernel knows a newer one."""
        return _STATE_NAMES.get(self.state) or str(self.state)

    @property
    def is_probed(self) -> bool:
        """Tells whether answered probes, keepalive or zero window, may have renewed `TcpInfo.last_ack_recv`."""
        return self.timer in (2, 4)

    @property
    def unread(self) -> int:
        """Bytes that the application has not read, an unread FIN not counted."""
        return max(0, self.recv_queue - 1) if self.state == TcpState.CLOSE_WAIT else self.recv_queue

    @property
    def identity(self) -> tuple[object, ...]:
        """What stays the same as long as it is the same connection, whichever door told of it."""
        return (self.netns, self.local, self.remote, self.inode)


class Holder(NamedTuple):
    """A process and the descriptor by which it holds a socket."""

    pid: int
    fd: int
    command: str


class ProcessFacts(NamedTuple):
    """One process: who it is, its descriptor budget, and the sockets it holds."""

    pid: int
    ppid: int
    uid: int
    command: str
    """The command line, or the bracketed task name where that is empty."""
    started: int
    """Start time in clock ticks since boot: with the pid, the identity of a process."""
    netns: int
    """Inode of its network namespace, 0 if not readable."""
    fd_used: int | None
    """Open descriptors; None if they may not be seen."""
    fd_limit: int | None
    """Soft RLIMIT_NOFILE; None if unlimited or not readable."""
    sockets: Mapping[int, tuple[int, ...]]
    """Socket inode -> descriptors, in ascending order."""


class Unseen(NamedTuple):
    """Something that could not be looked at; a report says so instead of keeping silent."""

    pid: int | None
    what: str
    """A clause that completes "not seen: ..."."""
    remedy: str
    fatal: bool = False
    """True where a process that was asked for by its pid could not be looked at at all."""


class Snapshot(NamedTuple):
    """Everything that one look at the machine brought back; what all reports are made of."""

    at: float
    """When, in seconds since the epoch."""
    sockets: tuple[SocketFacts, ...]
    """Every socket that may matter: CLOSE_WAIT, LISTEN, dead ones; all states if asked for."""
    processes: Mapping[int, ProcessFacts]
    """The processes looked at, by pid."""
    holders: Mapping[int, tuple[Holder, ...]]
    """Socket inode -> all who hold it, by ascending pid and fd."""
    parents: Mapping[int, int]
    """pid -> parent pid, as far as needed to find the topmost of several processes."""
    unseen: tuple[Unseen, ...] = ()
    owners_complete: bool = True
    """False if some process's descriptors could not be read, so that an owner may be missing."""
