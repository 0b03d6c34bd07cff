"""Waits in whichever event loop runs."""

__all__ = ["pause"]


async def pause(seconds: float) -> None:
    """Lets an event loop of asyncio or trio go on for so many seconds."""
    import anyio  # noqa: PLC0415 - the program may have no loop at all

    await anyio.sleep(seconds)
