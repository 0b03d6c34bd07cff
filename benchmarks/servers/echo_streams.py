"""Echo with asyncio's streams: `echo_streams.py [HOST] [--timer]`, prints its port.

`--timer` is what one writes without sockguard: `asyncio.timeout` around each read.
"""

import asyncio
import sys
from asyncio import StreamReader, StreamWriter

__all__ = ["BACKLOG", "IDLE", "host", "serve"]

IDLE = 300
BACKLOG = 4096


async def plain(reader: StreamReader, writer: StreamWriter) -> None:
    """Echoes until the client has closed."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionResetError:
        pass
    finally:
        writer.close()


async def timed(reader: StreamReader, writer: StreamWriter) -> None:
    """Does the same, with a time limit for each read."""
    try:
        while True:
            async with asyncio.timeout(IDLE):
                data = await reader.read(65536)
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except (ConnectionResetError, TimeoutError):
        pass
    finally:
        writer.close()


def host() -> str:
    """Gives the address to listen on: the argument that is no option."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "127.0.0.1")


async def serve() -> None:
    """Serves until it is killed."""
    handler = timed if "--timer" in sys.argv else plain
    server = await asyncio.start_server(handler, host(), 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
