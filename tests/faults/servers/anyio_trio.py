"""A server of anyio, here on trio: a task for each connection."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import common
import coroutines
from anyio.streams.tls import TLSStream

__all__ = ["create_tcp_listener", "main"]

create_tcp_listener: list[Callable[..., Awaitable[Any]]] = [anyio.create_tcp_listener]
"""Is replaced by the guarded one in guarded_anyio_*.py."""


class Stream:
    """A byte stream of anyio, with an end of the stream instead of an exception."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream

    async def read(self) -> bytes:
        try:
            return await self.stream.receive()
        except anyio.EndOfStream:
            return b""

    async def write(self, data: bytes) -> None:
        await self.stream.send(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def fileno(self) -> int:
        return self.stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno()


class Loop:
    """How a task waits."""

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def park(self) -> None:
        await anyio.sleep_forever()

    async def in_thread(self, function: Callable[[float], None], number: float) -> None:
        await anyio.to_thread.run_sync(function, number)


async def handle(raw: anyio.abc.ByteStream, context: Any) -> None:
    """Serves one connection and closes it, unless the handler fails; the server lives on."""
    stream = Stream(raw)
    try:
        if context:
            stream = Stream(await TLSStream.wrap(raw, server_side=True, ssl_context=context, standard_compatible=False))
        await coroutines.serve(stream, Loop())
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await raw.aclose()
    except RuntimeError as error:
        common.ERRORS.append(error)
        return
    if stream not in common.KEPT:
        await stream.close()


async def main() -> None:
    """Accepts for ever; when there is no descriptor left it tries again a little later."""
    options = common.start()
    context = common.tls_context(options)
    listener = await create_tcp_listener[0](local_host="127.0.0.1", backlog=options.backlog)
    common.note(f"port {listener.extra(anyio.abc.SocketAttribute.local_port)}")
    async with listener.listeners[0] as only, anyio.create_task_group() as tasks:
        while True:
            try:
                stream = await only.accept()
            except (anyio.BrokenResourceError, OSError) as error:  # on trio, and on asyncio
                if not common.is_full(error.__cause__ or error):
                    raise
                await anyio.sleep(0.1)
            else:
                tasks.start_soon(handle, stream, context)


if __name__ == "__main__":
    anyio.run(main, backend="trio")
