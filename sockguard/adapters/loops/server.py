"""A server that says when it is closed: of asyncio's own class, or for uvloop one that stands for its server.

asyncio's `Server` is an ordinary class, so a server gets a subclass for its class and stays the
object that it is. uvloop's is written in C and cannot be changed.
"""

import asyncio
import sys
from typing import Any, Self

from sockguard.adapters.loops.group import LoopGroup

__all__ = ["guarded_server"]


class Server(asyncio.Server):
    """Is an asyncio server whose connections are guarded."""

    _group: LoopGroup

    def close(self) -> None:
        """Closes the server; then ends the connections that nobody else ends."""
        super().close()
        self._group.end()


class ServerProxy(asyncio.AbstractServer):
    """Stands for a server of another event loop.

    Args:
        server: The server.
        group: Its connections.
    """

    def __init__(self, server: Any, group: LoopGroup) -> None:
        self._server = server
        self._group = group

    def __repr__(self) -> str:
        return repr(self._server)

    def __getattr__(self, name: str) -> Any:
        """Passes on what servers have besides, such as `sockets`."""
        return getattr(self._server, name)

    def close(self) -> None:
        """Closes the server; then ends the connections that nobody else ends."""
        self._server.close()
        self._group.end()

    if sys.version_info >= (3, 13):

        def close_clients(self) -> None:
            """Closes its connections."""
            self._server.close_clients()

        def abort_clients(self) -> None:
            """Aborts its connections."""
            self._server.abort_clients()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Gives its event loop."""
        loop: asyncio.AbstractEventLoop = self._server.get_loop()
        return loop

    def is_serving(self) -> bool:
        """Tells whether it accepts connections."""
        return bool(self._server.is_serving())

    async def start_serving(self) -> None:
        """Begins to accept connections."""
        await self._server.start_serving()

    async def serve_forever(self) -> None:
        """Accepts connections until it is cancelled, and closes then."""
        try:
            await self._server.serve_forever()
        finally:
            if not self.is_serving():
                self._group.end()

    async def wait_closed(self) -> None:
        """Waits as that server does."""
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()


def guarded_server(server: Any, group: LoopGroup) -> Any:
    """Makes a server say when it is closed.

    Args:
        server: As the event loop has made it.
        group: Its connections.
    """
    if type(server) is not asyncio.Server:
        return ServerProxy(server, group)
    guarded: Any = server
    guarded.__class__ = Server
    guarded._group = group  # noqa: SLF001 - of the class that it has now
    return guarded
