"""What a guarded socket tells of itself, and what can be set of it: as the original, also after its end."""

import _socket
import contextlib
import errno
import os
import socket
import sys
from typing import Any

from sockguard._engine.sockets.byte_calls import ByteCalls
from sockguard._engine.sockets.guarded import ANYBODY
from sockguard._engine.sockets.in_use import calls_into_c
from sockguard._kernel.one_socket import fd_of

__all__ = ["Named"]

_Raw = _socket.socket
_fileno, _settimeout, _setblocking = _Raw.fileno, _Raw.settimeout, _Raw.setblocking
_getsockopt, _setsockopt = _Raw.getsockopt, _Raw.setsockopt
_is_inheritable = getattr(os, "get_handle_inheritable", os.get_inheritable)  # the former on Windows, and only there
_SENDS_FILE = socket.socket._sendfile_use_sendfile.__code__  # type: ignore[attr-defined]  # noqa: SLF001 - it asks fileno()


class Named(ByteCalls):
    """The part of a guarded socket that tells its number, its names and its options."""

    __slots__ = ()

    def fileno(self) -> int:
        """Gives the number of the descriptor, which from then on is the program's to release."""
        # The original's sendfile() asks too, and keeps it to itself. Told by the caller: to restore what was
        # before would forget whom another thread has handed it to meanwhile.
        caller = sys._getframe().f_back  # noqa: SLF001 - the one door to it; None if C calls, as a thread begins
        if caller is None or caller.f_code is not _SENDS_FILE:
            self._known_to = ANYBODY
        return _fileno(self)

    def get_inheritable(self) -> bool:
        """Tells whether a child inherits the descriptor; it is not handed out for that."""
        try:
            return _is_inheritable(fd_of(self))
        except OSError as error:
            raise self._too_late(error) from None

    @property
    def is_handed_out(self) -> bool:
        """Tells whether anybody was given the number, so that the connection may be served elsewhere."""
        return self._known_to == ANYBODY

    def getpeername(self) -> Any:
        """Gives the peer's address, also after sockguard has closed."""
        return self._name("getpeername")

    def getsockname(self) -> Any:
        """Gives our address, also after sockguard has closed."""
        return self._name("getsockname")

    def _name(self, name: str) -> Any:
        try:
            return getattr(_Raw, name)(self)
        except OSError:
            if self._end is None or name not in self._end.names:
                raise
            return self._end.names[name]

    @calls_into_c
    def settimeout(self, value: float | None, /) -> None:
        """Sets the time-out in seconds, as `socket.settimeout`."""
        try:
            _settimeout(self, value)
        except OSError as error:
            raise self._too_late(error) from None

    @calls_into_c
    def setblocking(self, flag: bool, /) -> None:
        """Sets the mode as `socket.setblocking`."""
        try:
            _setblocking(self, flag)
        except OSError as error:
            raise self._too_late(error) from None

    @calls_into_c
    def getsockopt(self, *args: Any) -> Any:
        """Asks for an option as `socket.getsockopt`."""
        try:
            return _getsockopt(self, *args)
        except OSError as error:
            raise self._too_late(error) from None

    @calls_into_c
    def setsockopt(self, *args: Any) -> None:
        """Sets an option as `socket.setsockopt`."""
        try:
            _setsockopt(self, *args)
        except OSError as error:
            raise self._too_late(error) from None

    def _too_late(self, error: OSError) -> OSError:
        """Gives what is to be raised for an error: why there is no descriptor any more, if sockguard took it."""
        return self._end.error() if self._end is not None and error.errno == errno.EBADF else error

    def __repr__(self) -> str:
        """Describes it as the original, which would call `fileno`; that counts as handing the number out."""
        kind, closed = type(self), " [closed]" if getattr(self, "_closed", False) else ""
        text = f"<{kind.__module__}.{kind.__qualname__}{closed} fd={_fileno(self)}"
        text += f", family={self.family!s}, type={self.type!s}, proto={self.proto}"
        for word, name in () if closed else (("laddr", "getsockname"), ("raddr", "getpeername")):
            with contextlib.suppress(OSError):
                if address := getattr(_Raw, name)(self):
                    text += f", {word}={address}"
        return text + ">"
