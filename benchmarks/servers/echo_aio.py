"""Echo with asyncio's or sockguard's functions: `echo_aio.py [--guarded] [--protocol] [--uvloop]`, prints its port."""

import asyncio
import sys

from echo_protocol import Plain
from echo_streams import BACKLOG, host, plain


async def start() -> asyncio.Server:
    """Starts the server that was asked for."""
    is_protocol = "--protocol" in sys.argv
    if "--guarded" in sys.argv:
        import sockguard  # noqa: PLC0415 - the bare side must not load it
        from sockguard import aio  # noqa: PLC0415

        policy = sockguard.Policy(idle_timeout=300)
        if is_protocol:
            return await aio.create_server(Plain, host(), 0, backlog=BACKLOG, policy=policy)
        return await aio.start_server(plain, host(), 0, backlog=BACKLOG, policy=policy)
    if is_protocol:
        return await asyncio.get_running_loop().create_server(Plain, host(), 0, backlog=BACKLOG)
    return await asyncio.start_server(plain, host(), 0, backlog=BACKLOG)


async def serve() -> None:
    """Serves until it is killed."""
    server = await start()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.run(serve())
    else:
        asyncio.run(serve())
