"""The leaking server of `sockguard demo`: an asyncio event stream that never notices a hang-up.

It is the commonest leak of all: the handler waits on a queue, so nobody reads the socket,
and the subscriber stays in a set, so that no garbage collection helps.
"""

import asyncio
import sys

subscribers: set[asyncio.StreamWriter] = set()


async def serve_events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greets a subscriber, then waits for an event that never comes."""
    await reader.readline()
    writer.write(b"welcome\n")
    subscribers.add(writer)
    await asyncio.Event().wait()


async def main() -> None:
    """Serves on a free port of 127.0.0.1, which it prints, until it is ended."""
    server = await asyncio.start_server(serve_events, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
