"""Echo with anyio's streams, bare or guarded: `echo_anyio.py asyncio|uvloop|trio [--guarded]`, prints its port."""

import sys
from typing import Any

import anyio
import anyio.abc

if "--guarded" in sys.argv:
    import sockguard
    from sockguard.anyio import create_tcp_listener

    POLICY: dict[str, Any] = {"policy": sockguard.Policy(idle_timeout=300)}
else:
    from anyio import create_tcp_listener  # type: ignore[assignment]

    POLICY = {}

BACKLOG = 4096


async def handle(stream: anyio.abc.ByteStream) -> None:
    """Echoes until the client has closed."""
    try:
        async for data in stream:
            await stream.send(data)
    except anyio.BrokenResourceError:
        pass
    finally:
        await stream.aclose()


async def serve() -> None:
    """Serves until it is killed."""
    listener = await create_tcp_listener(local_host="127.0.0.1", backlog=BACKLOG, **POLICY)
    print(listener.extra(anyio.abc.SocketAttribute.local_port), flush=True)  # noqa: S610 - that is Django's
    await listener.serve(handle)


if __name__ == "__main__":
    name = sys.argv[1]
    anyio.run(
        serve,
        backend="trio" if name == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if name == "uvloop" else {},
    )
