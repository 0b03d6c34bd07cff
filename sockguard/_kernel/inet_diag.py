"""Which TCP sockets exist? The netlink door sock_diag(7): filtered dumps, and SOCK_DESTROY.

Two things about it are not in the manual page:

- A dump with the old message type TCPDIAG_GETSOCK answers for IPv4 and IPv6 in one walk
  of the kernel's hash table (net/ipv4/inet_diag.c, `inet_diag_dump_compat` sets the
  family to AF_UNSPEC). A dump by the newer SOCK_DIAG_BY_FAMILY walks the table once for
  each family, and with few sockets to tell of, the walk is nearly all of the cost. Where
  the old type is refused, the newer one is used.
- A socket in an accept queue has inode 0: it belongs to no file yet.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

from sockguard._core.facts import Address, SocketFacts, SocketMemory, TcpInfo, TcpState
from sockguard._kernel.natives import native
from sockguard._kernel.tcp_info import parse_tcp_info
from sockguard.errors import InternalError, KernelUnavailable

__all__ = ["ALL_STATES", "DiagReply", "destroy_socket", "open_diag", "parse_dump", "read_sockets"]

ALL_STATES = tuple(state for state in TcpState if state is not TcpState.BOUND_INACTIVE)
"""What `ss -a` lists: everything but sockets that are merely bound."""

NETLINK_SOCK_DIAG = 4
TCPDIAG_GETSOCK = 18
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
ATTRIBUTE_HEADER = 4
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
INET_DIAG_INFO, INET_DIAG_SKMEMINFO = 2, 7
_SOCKET_MESSAGES = (TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY)
Wanted = Callable[[SocketFacts], object] | None

_new = tuple.__new__
"""Builds a named tuple past its Python-level constructor, which is half of a row's cost."""

HEADER_SIZE = 16
_pack_header = struct.Struct("=IHHII").pack
_unpack_header = struct.Struct("=IHH").unpack_from
_ERROR = struct.Struct("=i")
_unpack_attribute = struct.Struct("=HH").unpack_from
_MEMORY = struct.Struct("=9I")
_ROW_SIZE = 88
_unpack_row = struct.Struct("=IHH8x BBBx 4x 16s16sI Q 4x I I I I").unpack_from
"""The netlink header with `struct inet_diag_msg`, less the ports, which are in network order."""
_unpack_ports = struct.Struct(">HH").unpack_from
_PORTS_AT = 20
_REQUEST_OLD = struct.Struct("=BBBB 48x II")
_REQUEST = struct.Struct("=BBBx I 48x")
_REQUEST_ONE = struct.Struct("=BBBx I 2s2s16s16sI Q")

_RECEIVE_BYTES = 1 << 16
_RECEIVE_TIMEOUT = struct.pack("@ll", 5, 0)
"""SO_RCVTIMEO: a dump answers at once, so silence for 5 s means that it never will."""
_MAX_ATTEMPTS = 4
_REMEDY = "sockguard reads /proc/net/tcp instead, which tells no ages."


class DiagReply(NamedTuple):
    """What one datagram of a dump said."""

    sockets: list[SocketFacts]
    is_last: bool
    is_interrupted: bool
    """The table changed in a way that makes this dump unreliable: ask again."""


def parse_dump(data: bytes, netns: int = 0, *, with_attributes: bool = True) -> DiagReply:
    """Decodes one datagram of a dump.

    Args:
        data: Whole netlink messages.
        netns: Inode of the network namespace that was asked, for the records.
        with_attributes: Decode TCP_INFO and memory where they are there.

    Raises:
        OSError: The kernel refused the request.
        InternalError: The bytes are no well-formed answer; no row is dropped silently.
    """
    sockets: list[SocketFacts] = []
    interrupted = 0
    offset, size = 0, len(data)
    while offset < size:
        left = size - offset
        length, kind, flags = _unpack_header(data, offset) if left >= HEADER_SIZE else (0, 0, 0)
        if length < HEADER_SIZE or length > left:
            msg = f"netlink message claims {length} bytes, {left} are there"
            raise InternalError(msg)
        interrupted |= flags & NLM_F_DUMP_INTR
        if kind in _SOCKET_MESSAGES:
            sockets.append(_parse_row(data, offset, length, netns, with_attributes))
        elif kind in (NLMSG_DONE, NLMSG_ERROR):
            _raise_if_refused(data[offset + HEADER_SIZE : offset + length], kind)
            return DiagReply(sockets, is_last=True, is_interrupted=bool(interrupted))
        elif kind != NLMSG_NOOP:
            msg = f"unexpected netlink message type {kind}"
            raise InternalError(msg)
        offset += (length + 3) & ~3
    return DiagReply(sockets, is_last=False, is_interrupted=bool(interrupted))


def _raise_if_refused(payload: bytes, kind: int) -> None:
    if len(payload) < _ERROR.size:
        if kind == NLMSG_DONE:
            return
        msg = "netlink error message without an error number"
        raise InternalError(msg)
    (status,) = _ERROR.unpack_from(payload)
    if status:
        number = -status
        raise OSError(number, os.strerror(number) if 0 < number < 1 << 12 else f"netlink status {status}")


def _parse_row(data: bytes, start: int, length: int, netns: int, with_attributes: bool) -> SocketFacts:
    if length < _ROW_SIZE:
        msg = f"inet_diag message has {length} bytes, at least {_ROW_SIZE} were expected"
        raise InternalError(msg)
    _, _, _, family, state, timer, src, dst, interface, cookie, receive, send, uid, inode = _unpack_row(data, start)
    local_port, remote_port = _unpack_ports(data, start + _PORTS_AT)
    info = memory = None
    if with_attributes:
        info, memory = _parse_attributes(data, start + _ROW_SIZE, start + length)
    local = _new(Address, (_host(family, src), local_port))
    remote = _new(Address, (_host(family, dst), remote_port))
    return _new(
        SocketFacts,
        (state, local, remote, inode, cookie, uid, receive, send, timer, interface, netns, info, memory, None),
    )


def _parse_attributes(data: bytes, offset: int, end: int) -> tuple[TcpInfo | None, SocketMemory | None]:
    info = memory = None
    while end - offset >= ATTRIBUTE_HEADER:
        length, kind = _unpack_attribute(data, offset)
        if length < ATTRIBUTE_HEADER or length > end - offset:
            break
        if kind == INET_DIAG_INFO:
            info = parse_tcp_info(data, offset + ATTRIBUTE_HEADER, offset + length)
        elif kind == INET_DIAG_SKMEMINFO:
            memory = _parse_memory(data[offset + ATTRIBUTE_HEADER : offset + length])
        offset += (length + 3) & ~3
    if offset < end:
        msg = f"inet_diag attributes are malformed {end - offset} bytes before their end"
        raise InternalError(msg)
    return info, memory


@lru_cache(maxsize=4096)
def _host(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(family, raw[:4])
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, raw)
    msg = f"inet_diag message of unknown address family {family}"
    raise InternalError(msg)


def _parse_memory(raw: bytes) -> SocketMemory:
    """Decodes INET_DIAG_SKMEMINFO; kernels before 4.x end before the last counters."""
    return SocketMemory(*_MEMORY.unpack(raw[: _MEMORY.size].ljust(_MEMORY.size, b"\0")))


_Socket: type[socket.socket] = native("socket", "socket")
"""Not one of gevent's, as the guard's thread is no greenlet; and not one that a test puts in its place for a while."""


def open_diag() -> socket.socket:
    """Opens a sock_diag socket in the calling thread's network namespace.

    The caller closes it. It needs no privilege.

    Raises:
        KernelUnavailable: Not Linux, or the sandbox refuses netlink.
    """
    if not hasattr(socket, "AF_NETLINK"):
        raise KernelUnavailable("sock_diag netlink", f"{sys.platform} is not Linux", "There is no replacement here.")
    try:
        sock = _Socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise _unavailable(error) from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
    return sock


def _unavailable(error: OSError) -> KernelUnavailable:
    return KernelUnavailable("sock_diag netlink", f"refused with {error.strerror}", _REMEDY)


def read_sockets(  # noqa: PLR0913 - what is asked for
    diag: socket.socket,
    states: Iterable[int],
    *,
    netns: int = 0,
    with_info: bool = False,
    with_memory: bool = False,
    wanted: Wanted = None,
) -> list[SocketFacts]:
    """Lists the TCP sockets, IPv4 and IPv6, that are in one of these states.

    The kernel filters. A dump that it marks as interrupted is asked for again, a few times; then the last one stands.

    Args:
        diag: From `open_diag`.
        netns: Inode of the network namespace of `diag`, for the records.
        with_info: Ask for TCP_INFO, without which there are no ages.
        with_memory: Ask for buffer memory.
        wanted: Keep only the rows for which it is true: the others, 0.5 to 1 KiB each, take no memory.

    Raises:
        KernelUnavailable: Netlink is refused here.
    """
    mask = sum(1 << state for state in states)
    extensions = with_info << (INET_DIAG_INFO - 1) | with_memory << (INET_DIAG_SKMEMINFO - 1)
    dump = partial(_dump_until_whole, diag, netns=netns, with_attributes=bool(extensions), wanted=wanted)
    try:
        return dump([_old_request(extensions, mask)])
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
            raise _unavailable(error) from error
    try:
        return dump([_request(family, extensions, mask) for family in (socket.AF_INET, socket.AF_INET6)])
    except OSError as error:
        raise _unavailable(error) from error


def _old_request(extensions: int, mask: int) -> bytes:
    return _frame(TCPDIAG_GETSOCK, NLM_F_DUMP, _REQUEST_OLD.pack(socket.AF_INET, 0, 0, extensions, mask, 0))


def _request(family: int, extensions: int, mask: int) -> bytes:
    return _frame(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, _REQUEST.pack(family, socket.IPPROTO_TCP, extensions, mask))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return _pack_header(HEADER_SIZE + len(payload), kind, NLM_F_REQUEST | flags, 0, 0) + payload


def _dump_until_whole(
    diag: socket.socket, requests: list[bytes], netns: int, with_attributes: bool, wanted: Wanted
) -> list[SocketFacts]:
    for _ in range(_MAX_ATTEMPTS):
        sockets: list[SocketFacts] = []
        interrupted = False
        for request in requests:
            diag.send(request)
            for reply in _replies(diag, netns, with_attributes):
                sockets += filter(wanted, reply.sockets)
                interrupted = interrupted or reply.is_interrupted
        if not interrupted:
            break
    return sockets


def _replies(diag: socket.socket, netns: int, with_attributes: bool) -> Iterator[DiagReply]:
    is_last = False
    while not is_last:
        data = diag.recv(_RECEIVE_BYTES)
        if not data:
            raise InternalError("an empty datagram in the middle of a dump")
        reply = parse_dump(data, netns, with_attributes=with_attributes)
        is_last = reply.is_last
        yield reply


def destroy_socket(diag: socket.socket, facts: SocketFacts) -> None:
    """Ends one connection with a reset, whoever has it: SOCK_DESTROY.

    Addresses and cookie have to match, so it cannot hit another connection that has come
    to the same addresses since. The fd, if there is one, stays with its owner.

    Args:
        diag: From `open_diag`, in the connection's network namespace.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN, EOPNOTSUPP if the kernel lacks
            CONFIG_INET_DIAG_DESTROY, ENOENT if the connection is no longer there.
    """
    diag.send(_frame(SOCK_DESTROY, NLM_F_ACK, _request_for(facts)))
    parse_dump(diag.recv(_RECEIVE_BYTES))


def _request_for(facts: SocketFacts) -> bytes:
    if facts.remote is None or facts.cookie is None:
        msg = f"a connection can only be addressed by both ends and its cookie, not {facts!r}"
        raise ValueError(msg)
    family = socket.AF_INET6 if ":" in facts.local.host else socket.AF_INET
    ports = [address.port.to_bytes(2, "big") for address in (facts.local, facts.remote)]
    hosts = [socket.inet_pton(family, address.host) for address in (facts.local, facts.remote)]
    return _REQUEST_ONE.pack(
        family, socket.IPPROTO_TCP, 0, 1 << facts.state, *ports, *hosts, facts.interface, facts.cookie
    )
