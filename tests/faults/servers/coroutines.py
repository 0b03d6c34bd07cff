"""What a coroutine with a stream does wrong, by the word in the connection's first line.

Used by asyncio_streams.py and anyio_trio.py, which bring a stream with `read`, `write` and
`close`, and their own ways to sleep and to wait for a thread. The words are those of
blocking.py. The caller closes the stream when `serve` returns, unless it is in KEPT.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import common

__all__ = ["Loop", "Stream", "serve"]


class Stream(Protocol):
    """A connection."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    async def close(self) -> None: ...
    def fileno(self) -> int: ...


class Loop(Protocol):
    """What differs between the event loops."""

    async def sleep(self, seconds: float) -> None: ...
    async def park(self) -> None: ...
    async def in_thread(self, function: Callable[[float], None], number: float) -> None: ...


async def serve(stream: Stream, loop: Loop) -> None:
    """Handles one connection as its first line tells."""
    line = b""
    while b"\n" not in line:
        data = await stream.read()
        if not data:
            return
        line += data
    head, _, rest = line.partition(b"\n")
    word, numbers = common.talk(head)
    await stream.write(b"ok\n")
    if word == "echo":
        await stream.write(rest)
    await WORDS[word](stream, loop, *numbers)


async def drain(stream: Stream) -> int:
    """Reads until the peer has closed; gives the number of bytes."""
    n_read = 0
    while data := await stream.read():
        n_read += len(data)
    return n_read


async def echo(stream: Stream, loop: Loop) -> None:
    while data := await stream.read():
        await stream.write(data)


async def ignore(stream: Stream, loop: Loop) -> None:
    await drain(stream)
    await loop.park()


async def pause(stream: Stream, loop: Loop) -> None:
    await loop.park()


async def late(stream: Stream, loop: Loop, after: float) -> None:
    await loop.sleep(after)
    common.note(f"read {await drain(stream)}")
    await stream.write(b"done")


async def stream_(stream: Stream, loop: Loop, n: float, every: float) -> None:
    for number in range(int(n)):
        await stream.write(common.chunk(number))
        await loop.sleep(every)


async def answer(stream: Stream, loop: Loop, after: float) -> None:
    await drain(stream)
    await loop.sleep(after)
    await stream.write(b"late answer")


async def flood(stream: Stream, loop: Loop, n: float) -> None:
    for number in range(int(n)):
        await stream.write(common.chunk(number))


async def block(stream: Stream, loop: Loop, seconds: float) -> None:
    common.native["sleep"](seconds)
    await drain(stream)


async def thread(stream: Stream, loop: Loop) -> None:
    await loop.in_thread(common.native["sleep"], 3600)


async def raises(stream: Stream, loop: Loop) -> None:
    await drain(stream)
    message = "the handler fails on the way to close()"
    raise RuntimeError(message)


async def endless(stream: Stream, loop: Loop) -> None:
    while True:
        await loop.sleep(0.05)


async def keep(stream: Stream, loop: Loop) -> None:
    common.KEPT.add(stream)


async def fork(stream: Stream, loop: Loop) -> None:
    common.fork_that_keeps()


async def dup(stream: Stream, loop: Loop) -> None:
    common.FDS.append(os.dup(stream.fileno()))
    await drain(stream)


async def detach(stream: Stream, loop: Loop) -> None:
    common.new_owner(os.dup(stream.fileno()))


async def hold(stream: Stream, loop: Loop, seconds: float) -> None:
    await drain(stream)
    await loop.sleep(seconds)


async def keepalive(stream: Stream, loop: Loop) -> None:
    common.probe_often(stream.fileno())
    await ignore(stream, loop)


WORDS: dict[str, Callable[..., Awaitable[Any]]] = {
    function.__name__.rstrip("_"): function
    for function in (
        *(echo, ignore, pause, late, stream_, answer, flood, block, thread),
        *(raises, endless, keep, fork, dup, detach, hold, keepalive),
    )
}
