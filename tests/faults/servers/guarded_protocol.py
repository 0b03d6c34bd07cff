"""asyncio_protocol.py with `sockguard.aio.create_server`."""

import argparse
import asyncio
import functools

import asyncio_protocol
import common
from explicit import policy_of

from sockguard import aio


def guard(options: argparse.Namespace) -> None:
    """Puts the guarded function in the place of the plain one."""
    asyncio_protocol.create_server[0] = functools.partial(aio.create_server, policy=policy_of(options))


if __name__ == "__main__":
    common.on_start.append(guard)
    asyncio.run(asyncio_protocol.main())
