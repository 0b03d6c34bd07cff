"""Which addresses does a socket have, its own and its peer's?"""

import os
from collections.abc import Callable
from typing import Any, Protocol

from sockguard._core.facts import Address, Names
from sockguard._kernel.peer_name import read_peer_name

__all__ = ["read_names"]


class HasNames(Protocol):
    """A socket, or what an event loop gives in place of one."""

    def getsockname(self) -> object:
        """Its own address."""

    def getpeername(self) -> object:
        """That of its peer."""


def read_names(sock: HasNames) -> Names:
    """Reads both ends of a socket of any family, also after the end; None for one that the kernel does not tell."""
    return Names(_read(sock.getsockname), _read(lambda: read_peer_name(sock)))


def _read(read: Callable[[], Any]) -> Address | str | None:
    try:
        name = read()
    except OSError:
        return None  # closed; or ENOTCONN
    if not isinstance(name, tuple):  # of a Unix socket; empty where nothing was bound, an abstract one begins with NUL
        return os.fsdecode(name).replace("\0", "@") or None
    host, port = name[:2]
    return Address(str(host).partition("%")[0], int(port)).unmapped
