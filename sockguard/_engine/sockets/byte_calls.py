"""How a guarded socket receives and sends: as the original, with an eye on what comes back empty or fails.

These run for every piece of data, so they are written for speed. A call that moved bytes
costs one Python call and one look at `_meter` more than the original's; whatever else there is to
do waits for an empty result or an error. `benchmarks/bench_wrapper_socket.py` measures it.
"""

import _socket
from collections.abc import Callable, Iterable
from typing import Any

from sockguard._engine.sockets.guarded import Guarded
from sockguard._engine.sockets.in_use import calls_into_c
from sockguard._engine.sockets.receiving import (
    RECV,
    RECV_INTO,
    RECVFROM,
    RECVFROM_INTO,
    RECVMSG,
    RECVMSG_INTO,
    Receiving,
)
from sockguard._kernel.one_socket import fd_of

__all__ = ["ByteCalls"]

_Raw = _socket.socket
# Bound once: a method of the C class that is called with the socket is the shortest way there is.
_recv, _recv_into, _send, _sendall = _Raw.recv, _Raw.recv_into, _Raw.send, _Raw.sendall
_sendto = _Raw.sendto
_sendmsg: Any = getattr(_Raw, "sendmsg", None)


class _Receiver(Guarded):
    """The part of a guarded socket that receives."""

    __slots__ = ()

    @calls_into_c
    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receives as `socket.recv`."""
        if self._meter is not None:
            return bytes(self._receive(RECV, bufsize, flags))
        try:
            data = _recv(self, bufsize, flags)
        except OSError as error:
            if self._is_past_end(error):
                return b""
            raise
        if not data and bufsize:
            self._found_eof()
        return data

    @calls_into_c
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receives as `socket.recv_into`; files of makefile() read by it."""
        if self._meter is not None:
            return int(self._receive(RECV_INTO, buffer, nbytes, flags))
        try:
            n_read = _recv_into(self, buffer, nbytes, flags)
        except OSError as error:
            if self._is_past_end(error):
                return 0
            raise
        if not n_read and (nbytes or memoryview(buffer).nbytes):
            self._found_eof()
        return n_read

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receives as `socket.recvfrom`."""
        return self._receive(RECVFROM, bufsize, flags)  # type: ignore[no-any-return]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receives as `socket.recvfrom_into`."""
        return self._receive(RECVFROM_INTO, buffer, nbytes, flags)  # type: ignore[no-any-return]

    if hasattr(_Raw, "recvmsg"):

        def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
            """Receives as `socket.recvmsg`."""
            return self._receive(RECVMSG, bufsize, ancbufsize, flags)

        def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /) -> Any:
            """Receives as `socket.recvmsg_into`."""
            return self._receive(RECVMSG_INTO, tuple(buffers), ancbufsize, flags)

    @calls_into_c
    def _receive(self, how: Receiving, *args: Any) -> Any:
        try:
            result = how.call(self, *args) if self._meter is None else self._meter.receive(self, how, args)
        except OSError as error:
            if self._is_past_end(error):
                return how.nothing
            raise
        if self._is_taken and not how.n_of(result) and how.room(args):
            self._found_eof()
        return result


class ByteCalls(_Receiver):
    """The part of a guarded socket that receives and sends."""

    __slots__ = ()

    @calls_into_c
    def send(self, data: Any, flags: int = 0, /) -> int:
        """Sends as `socket.send`."""
        try:
            if self._meter is None:
                return _send(self, data, flags)
            return self._meter.send(self, _send, data, (flags,), flags)
        except OSError as error:
            self._failed_to_send(error)
            raise

    @calls_into_c
    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Sends as `socket.sendall`."""
        try:
            if self._meter is None:
                return _sendall(self, data, flags)
            return self._meter.send_all(self, data, flags)
        except OSError as error:
            self._failed_to_send(error)
            raise

    @calls_into_c
    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Sends as `socket.sendto`."""
        try:
            if self._meter is None:
                return _sendto(self, data, *flags_and_address)
            flags = flags_and_address[0] if len(flags_and_address) > 1 else 0
            return self._meter.send(self, _sendto, data, flags_and_address, flags)
        except OSError as error:
            self._failed_to_send(error)
            raise

    if hasattr(_Raw, "sendmsg"):

        @calls_into_c
        def sendmsg(self, buffers: Iterable[Any], *args: Any) -> int:
            """Sends as `socket.sendmsg`."""
            try:
                if self._meter is None:
                    return int(_sendmsg(self, buffers, *args))
                return self._meter.send_message(self, tuple(buffers), args, args[1] if len(args) > 1 else 0)
            except OSError as error:
                self._failed_to_send(error)
                raise

    def _sendfile_use_sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Does what `socket.sendfile` does where the system has one: it uses the number for as long as it takes."""
        if self._end is not None and fd_of(self) < 0:
            raise self._end.error()
        try:
            return self._send_file(super()._sendfile_use_sendfile, file, offset, count)  # type: ignore[misc]
        except OSError as error:
            self._failed_to_send(error)
            raise

    def _send_file(self, theirs: Callable[..., int], file: Any, offset: int, count: int | None) -> int:
        self._n_busy += 1
        try:
            if self._meter is None:
                return theirs(file, offset, count)
            return self._meter.send_file(self, theirs, file, offset, count)
        finally:
            self._n_busy -= 1

    def _failed_to_send(self, error: OSError) -> None:
        if self._is_past_end(error) and self._end is not None:
            raise self._end.error() from None
