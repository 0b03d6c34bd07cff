"""What can asyncio's functions be given by name? For type checkers; at run time asyncio takes or refuses it itself."""

import socket
import sys
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import ssl as tls  # some Pythons are built without it

__all__ = ["ConnectionOptions", "ServerOptions"]


class _ServerOptions(TypedDict, total=False):
    family: int
    flags: int
    sock: socket.socket | None
    backlog: int
    ssl: "tls.SSLContext | bool | None"
    reuse_address: bool | None
    reuse_port: bool | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    start_serving: bool


class _ConnectionOptions(TypedDict, total=False):
    ssl: "tls.SSLContext | bool | None"
    family: int
    proto: int
    flags: int
    sock: socket.socket | None
    local_addr: tuple[str, int] | None
    server_hostname: str | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    happy_eyeballs_delay: float | None
    interleave: int | None


if sys.version_info >= (3, 13):

    class ServerOptions(_ServerOptions, total=False):
        """Of `loop.create_server`."""

        keep_alive: bool | None
else:

    class ServerOptions(_ServerOptions, total=False):
        """Of `loop.create_server`."""


if sys.version_info >= (3, 12):

    class ConnectionOptions(_ConnectionOptions, total=False):
        """Of `loop.create_connection`."""

        all_errors: bool
else:

    class ConnectionOptions(_ConnectionOptions, total=False):
        """Of `loop.create_connection`."""
