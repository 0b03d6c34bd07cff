"""The six calls by which a socket receives: what each has room for, and where its bytes are.

A wrapper that counts bytes, or takes the answers to its heartbeats out of them, does the same
for all six; this table tells it how.
"""

import _socket
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

__all__ = [
    "RECV",
    "RECVFROM",
    "RECVFROM_INTO",
    "RECVMSG",
    "RECVMSG_INTO",
    "RECV_INTO",
    "Receiving",
    "brings_descriptors",
]

_Raw = _socket.socket
SCM_RIGHTS: int | None = getattr(socket, "SCM_RIGHTS", None)
"""None on Windows, where no descriptors are sent."""
Args = tuple[Any, ...]


class Receiving(NamedTuple):
    """One way to receive. `args` are those of the call, without the socket."""

    call: Callable[..., Any]
    room: Callable[[Args], int]
    """How many bytes are asked for."""
    n_of: Callable[[Any], int]
    """How many bytes a result stands for."""
    data_of: Callable[[Args, Any], bytes]
    """The bytes of a result."""
    put: Callable[[Args, Any, bytes], Any]
    """Makes a result that has these bytes in place of its own, no more than there is room for."""
    nothing: Any
    """The result at the end of the stream."""
    flags_at: int
    """Where in `args` the flags are."""

    def flags(self, args: Args) -> int:
        """Tells the flags of a call."""
        return int(args[self.flags_at]) if len(args) > self.flags_at else 0


def brings_descriptors(result: Any) -> bool:
    """Tells whether descriptors came with the bytes of a result, which only the result of a recvmsg() can hold."""
    beside = result[1] if isinstance(result, tuple) and len(result) == len(RECVMSG.nothing) else ()
    return any((level, kind) == (socket.SOL_SOCKET, SCM_RIGHTS) for level, kind, _ in beside)


def _first(result: tuple[Any, ...]) -> int:
    return len(result[0])


def _first_number(result: tuple[Any, ...]) -> int:
    return int(result[0])


def _view(buffer: Any) -> memoryview:
    return memoryview(buffer).cast("B")


def _room_into(args: Args) -> int:
    return (len(args) > 1 and args[1]) or _view(args[0]).nbytes


def _write(buffers: Iterable[Any], data: bytes) -> int:
    left = memoryview(data)
    for buffer in buffers:
        view = _view(buffer)
        n = min(len(view), len(left))
        view[:n], left = left[:n], left[n:]
    return len(data)


def _read(buffers: Iterable[Any], n: int) -> bytes:
    return b"".join(_view(buffer) for buffer in buffers)[:n]


RECV = Receiving(_Raw.recv, lambda a: int(a[0]), len, lambda _, r: bytes(r), lambda _a, _r, data: data, b"", flags_at=1)
RECVFROM = Receiving(
    _Raw.recvfrom, RECV.room, _first, lambda _, r: bytes(r[0]), lambda _, r, data: (data, *r[1:]), (b"", None), 1
)
RECV_INTO = Receiving(
    _Raw.recv_into,
    _room_into,
    int,
    lambda a, r: bytes(_view(a[0])[:r]),
    lambda a, _, data: _write([a[0]], data),
    nothing=0,
    flags_at=2,
)
RECVFROM_INTO = Receiving(
    _Raw.recvfrom_into,
    _room_into,
    _first_number,
    lambda a, r: bytes(_view(a[0])[: r[0]]),
    lambda a, r, data: (_write([a[0]], data), *r[1:]),
    (0, None),
    flags_at=2,
)
RECVMSG = Receiving(
    getattr(_Raw, "recvmsg", _Raw.recvfrom), RECV.room, _first, RECVFROM.data_of, RECVFROM.put, (b"", [], 0, None), 2
)
RECVMSG_INTO = Receiving(
    getattr(_Raw, "recvmsg_into", _Raw.recvfrom_into),
    lambda a: sum(_view(buffer).nbytes for buffer in a[0]),
    _first_number,
    lambda a, r: _read(a[0], r[0]),
    lambda a, r, data: (_write(a[0], data), *r[1:]),
    (0, [], 0, None),
    flags_at=2,
)
