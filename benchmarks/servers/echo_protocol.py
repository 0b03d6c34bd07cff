"""Echo with an asyncio protocol: `echo_protocol.py [HOST] [--timer]`, prints its port.

`--timer` is what one writes without sockguard: a timer that each piece of data arms anew.
"""

import asyncio
import sys
from typing import cast

from echo_streams import BACKLOG, IDLE, host


class Plain(asyncio.Protocol):
    """Echoes; the base class closes when the client has closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Sends back what has come."""
        self.transport.write(data)


class Timed(Plain):
    """Does the same, and ends a connection that says nothing for long."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Arms the timer."""
        super().connection_made(transport)
        self.loop = asyncio.get_running_loop()
        self.timer = self.loop.call_later(IDLE, transport.abort)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Arms the timer anew."""
        self.timer.cancel()
        self.timer = self.loop.call_later(IDLE, self.transport.abort)
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        """Drops the timer."""
        self.timer.cancel()


async def serve() -> None:
    """Serves until it is killed."""
    factory = Timed if "--timer" in sys.argv else Plain
    server = await asyncio.get_running_loop().create_server(factory, host(), 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
