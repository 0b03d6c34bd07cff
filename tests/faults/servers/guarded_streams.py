"""asyncio_streams.py with `sockguard.aio.start_server`."""

import argparse
import asyncio
import functools

import asyncio_streams
import common
from explicit import policy_of

from sockguard import aio


def guard(options: argparse.Namespace) -> None:
    """Puts the guarded function in the place of the plain one."""
    asyncio_streams.start_server[0] = functools.partial(aio.start_server, policy=policy_of(options))


if __name__ == "__main__":
    common.on_start.append(guard)
    asyncio.run(asyncio_streams.main())
