"""How to end a leaked connection from outside its process, and never another one.

shutdown(SHUT_WR) on a connection in CLOSE_WAIT sends our FIN and so ends it for TCP
(net/ipv4/tcp.c, `tcp_shutdown`). It takes nothing away: bytes that the peer sent stay
readable, the descriptor stays with its owner, who sees EOF and HUP on it and may close.
close() would do less, as only the last reference counts, and cannot be called for others.
"""

import _socket
import errno
import socket

from sockguard._core.facts import Holder, SocketFacts, TcpState
from sockguard._kernel.inet_diag import destroy_socket, open_diag, read_sockets
from sockguard._kernel.netns import open_diag_in
from sockguard._kernel.one_socket import read_cookie, read_unread
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_pid import read_netns
from sockguard._kernel.tcp_info import read_tcp_info

__all__ = ["NotTheSame", "StillAlive", "destroy_unaccepted", "shut_down"]


class NotTheSame(Exception):
    """Is raised when the connection that was meant is gone; the text says what is there now."""


class StillAlive(Exception):
    """Is raised when the connection made progress since it was judged."""


def shut_down(facts: SocketFacts, holder: Holder, *, started: int | None) -> None:
    """Ends an accepted CLOSE_WAIT connection of any process.

    Right before acting, on the borrowed descriptor itself, it makes sure that this is
    still the same connection (by its cookie), still in CLOSE_WAIT, and has not moved.

    Args:
        facts: What the connection was judged by, with cookie and TCP_INFO.
        holder: Any of its holders.
        started: Start time of the holder's process.

    Raises:
        NotTheSame: It is closed, ended, or the descriptor is another connection by now.
        StillAlive: It made progress.
        OSError: Not allowed to borrow it, or the process is gone.
        KernelUnavailable: The kernel cannot lend descriptors.
    """
    try:
        with borrow_socket(holder.pid, holder.fd, started=started) as sock:
            _make_sure(sock, facts)
            sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN):
            msg = f"descriptor {holder.fd} was closed meanwhile"
            raise NotTheSame(msg) from error
        raise


def _make_sure(sock: _socket.socket, facts: SocketFacts) -> None:
    if read_cookie(sock) != facts.cookie:
        raise NotTheSame("the descriptor is another connection by now")
    info = read_tcp_info(sock)
    if info.state != TcpState.CLOSE_WAIT:
        msg = f"it is in {facts._replace(state=info.state).state_name} by now"
        raise NotTheSame(msg)
    if read_unread(sock) < facts.unread:
        raise StillAlive("its program read from it since it was looked at")
    if facts.info is None or info.bytes_sent != facts.info.bytes_sent:
        raise StillAlive("its program sent data since it was looked at")
    if info.bytes_acked != facts.info.bytes_acked:
        raise StillAlive("the peer acknowledged data since it was looked at")
    if info.last_ack_recv < facts.info.last_ack_recv:
        raise StillAlive("the peer was heard of since it was looked at")


def destroy_unaccepted(facts: SocketFacts, listener: Holder) -> None:
    """Resets a CLOSE_WAIT connection that still waits to be accepted (SOCK_DESTROY).

    It is looked up once more first, so that one that was accepted meanwhile is left alone.
    Its place in the accept queue is only freed when the application accepts or closes the
    listener; accept() then yields a connection that is over.

    Args:
        listener: A holder of the listener, for the network namespace.

    Raises:
        NotTheSame: It was accepted, or is over.
        OSError: EPERM without CAP_NET_ADMIN; EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY.
        KernelUnavailable: Netlink is refused.
    """
    is_own = facts.netns in (0, read_netns())
    with open_diag() if is_own else open_diag_in(listener.pid) as diag:
        now = [s for s in read_sockets(diag, [TcpState.CLOSE_WAIT]) if s.cookie == facts.cookie]
        if not now or now[0].inode:
            raise NotTheSame("it was accepted or ended meanwhile")
        destroy_socket(diag, facts)
