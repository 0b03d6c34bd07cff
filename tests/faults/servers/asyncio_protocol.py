"""A server of asyncio's transports and protocols; with uvloop_protocol.py on uvloop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import common
from callbacks import Conversation

__all__ = ["create_server", "main"]


async def plain_server(*args: Any, **kwds: Any) -> asyncio.Server:
    """Creates a server, as the event loop does."""
    return await asyncio.get_running_loop().create_server(*args, **kwds)


create_server: list[Callable[..., Awaitable[asyncio.Server]]] = [plain_server]
"""Is replaced by the guarded one in guarded_protocol.py."""


async def main() -> None:
    """Serves for ever."""
    options = common.start()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: common.ERRORS.append(context))
    server = await create_server[0](
        lambda: Conversation(loop.call_later),
        sock=common.listen(options),
        backlog=options.backlog,
        ssl=common.tls_context(options),
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
