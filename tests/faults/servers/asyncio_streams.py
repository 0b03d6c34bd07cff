"""A server of asyncio's streams: a coroutine for each connection."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import common
import coroutines

start_server: list[Callable[..., Awaitable[asyncio.Server]]] = [asyncio.start_server]
"""Is replaced by the guarded one in guarded_streams.py."""
SMALL = 4096
"""The limit of the stream's buffer, bytes: what is beyond twice that pauses the transport."""


class Stream:
    """A reader and its writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> bytes:
        return await self.reader.read(65536)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()

    def fileno(self) -> int:
        return self.writer.get_extra_info("socket").fileno()


class Loop:
    """How a coroutine of asyncio waits."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def park(self) -> None:
        await asyncio.Event().wait()

    async def in_thread(self, function: Callable[[float], None], number: float) -> None:
        await asyncio.to_thread(function, number)


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one connection and closes it, unless the handler fails."""
    stream = Stream(reader, writer)
    common.OPEN.add(task := asyncio.current_task())
    with contextlib.suppress(OSError):
        await coroutines.serve(stream, Loop())
    common.OPEN.discard(task)
    if stream not in common.KEPT:
        await stream.close()


async def main() -> None:
    """Serves for ever."""
    options = common.start()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: common.ERRORS.append(context))
    server = await start_server[0](
        handle,
        sock=common.listen(options),
        backlog=options.backlog,
        ssl=common.tls_context(options),
        limit=SMALL,
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
