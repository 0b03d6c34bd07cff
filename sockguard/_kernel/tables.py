"""All TCP sockets of a network namespace, by the best door that is open.

Netlink first: it filters in the kernel and tells ages. Where it is refused (seccomp, a
namespace that may not be entered), /proc/PID/net/tcp gives the same rows, and what is
missing in them is asked of each sick socket that can be borrowed.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from sockguard._core.facts import LEAK_STATES, Holder, ProcessFacts, SocketFacts, TcpState, Unseen
from sockguard._kernel.inet_diag import ALL_STATES, open_diag, read_sockets
from sockguard._kernel.natives import system
from sockguard._kernel.netns import open_diag_in
from sockguard._kernel.one_socket import read_cookie, read_facts
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_net import read_net_tcp
from sockguard._kernel.tcp_info import read_tcp_info
from sockguard.errors import KernelUnavailable

__all__ = ["BORROW_RIGHTS", "OWNED_STATES", "SICK_STATES", "Table", "read_table", "read_unlisted", "with_infos"]

SICK_STATES = (TcpState.CLOSE_WAIT, TcpState.LISTEN)
"""What a leak report needs in full; listeners, for the queues in front of accept()."""
UNOWNED_STATES = (TcpState.TIME_WAIT, TcpState.NEW_SYN_RECV)
"""What no process can hold: the kernel keeps these in small records of their own."""
OWNED_STATES = tuple(state for state in ALL_STATES if state not in UNOWNED_STATES)
BORROW_RIGHTS = "run it as root or with CAP_SYS_PTRACE; sockguard doctor tells what is missing"
_CANNOT_BORROW = (OSError, KernelUnavailable)


class Table(NamedTuple):
    """The sockets of one network namespace, and what could not be had of them."""

    sockets: list[SocketFacts]
    unseen: list[Unseen]


def read_table(pid: int, netns: int, states: Collection[int] = SICK_STATES, *, is_own: bool) -> Table:
    """Lists the TCP sockets of a process's network namespace.

    Args:
        pid: A process that lives in it.
        netns: Its inode, for the records.
        states: Which to list beside `SICK_STATES`, and without TCP_INFO.
        is_own: It is the namespace of this thread, so nothing has to be entered.

    Raises:
        ProcessLookupError: The process has ended, so ask by another one.
    """
    try:
        with open_diag() if is_own else open_diag_in(pid) as diag:
            # The sick ones last: who changes sides between the two calls is seen twice, not never.
            others = set(states).difference(SICK_STATES)
            sockets = read_sockets(diag, others, netns=netns) if others else []
            sockets += read_sockets(diag, SICK_STATES, netns=netns, with_info=True)
            return Table(sockets, [])
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "no such process", str(pid)) from error
    except OSError as error:
        reason = f"network namespace {netns} may not be entered ({error.strerror})"
    except KernelUnavailable as error:
        reason = f"{error.feature} is refused ({error.reason})"
    return _read_text_table(pid, netns, reason, states)


def _read_text_table(pid: int, netns: int, reason: str, states: Collection[int]) -> Table:
    try:
        rows = read_net_tcp(pid, netns=netns)
    except OSError as error:
        what = f"the sockets of process {pid}: {reason}, and /proc/{pid}/net/tcp cannot be read ({error.strerror})"
        return Table([], [Unseen(pid, what, BORROW_RIGHTS, fatal=True)])
    what = f"ages of connections that cannot be borrowed: {reason}; read from /proc/{pid}/net/tcp"
    return Table([s for s in rows if s.state in (*states, *SICK_STATES)], [Unseen(None, what, BORROW_RIGHTS)])


def with_infos(
    sockets: Iterable[SocketFacts], holders: Mapping[int, tuple[Holder, ...]], processes: Mapping[int, ProcessFacts]
) -> list[SocketFacts]:
    """Adds TCP_INFO and cookie to CLOSE_WAIT sockets that lack them, where a holder lends."""
    return [
        _complete(s, holders[s.inode][0], processes)
        if s.state == TcpState.CLOSE_WAIT and s.info is None and s.inode in holders
        else s
        for s in sockets
    ]


def _complete(facts: SocketFacts, holder: Holder, processes: Mapping[int, ProcessFacts]) -> SocketFacts:
    process = processes.get(holder.pid)
    try:
        with borrow_socket(holder.pid, holder.fd, started=process and process.started) as sock:
            if system.fstat(sock.fileno()).st_ino != facts.inode:
                return facts
            return facts._replace(info=read_tcp_info(sock), cookie=read_cookie(sock))
    except _CANNOT_BORROW:
        return facts


def read_unlisted(holder: Holder, inode: int, *, netns: int, started: int | None = None) -> SocketFacts | None:
    """Looks at a held socket that no table lists; None if it is no leak candidate.

    That is a TCP connection that is over (CLOSE) or, seen from a namespace that the
    socket does not live in, in CLOSE_WAIT.

    Args:
        netns: Network namespace of the holder, which nearly always is that of the socket.

    Raises:
        OSError: It may not be borrowed, or is closed by now.
        KernelUnavailable: The kernel cannot lend.
    """
    with borrow_socket(holder.pid, holder.fd, started=started) as sock:
        facts = read_facts(sock, netns=netns)
    is_candidate = facts and facts.inode == inode and facts.state in LEAK_STATES
    return facts if is_candidate else None
