"""A server of asyncio's transports and protocols; with uvloop_protocol.py on uvloop."""

import asyncio

import common
from callbacks import Conversation

__all__ = ["main"]


async def main() -> None:
    """Serves for ever."""
    options = common.start()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: common.ERRORS.append(context))
    server = await loop.create_server(
        lambda: Conversation(loop.call_later),
        sock=common.listen(options),
        backlog=options.backlog,
        ssl=common.tls_context(options),
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
