"""Waits in whichever event loop runs."""

from sockguard._kernel.natives import monotonic, sleep

__all__ = ["pause"]

STEP = 0.001


async def pause(seconds: float) -> None:
    """Lets an event loop of asyncio or trio go on for so many seconds, even if a test has its clock stand still."""
    import anyio.lowlevel  # noqa: PLC0415 - the program may have no loop at all

    before = anyio.current_time()
    if anyio.current_time() != before:
        await anyio.sleep(seconds)
        return
    until = monotonic() + seconds
    while monotonic() < until:
        await anyio.lowlevel.checkpoint()
        sleep(STEP)
