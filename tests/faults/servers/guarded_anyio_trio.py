"""anyio_trio.py with `sockguard.anyio.create_tcp_listener`; with guarded_anyio_asyncio.py on asyncio."""

import argparse
import functools

import anyio
import anyio_trio
import common
from explicit import policy_of

import sockguard.anyio

__all__ = ["run"]


def guard(options: argparse.Namespace) -> None:
    """Puts the guarded function in the place of the plain one."""
    anyio_trio.create_tcp_listener[0] = functools.partial(
        sockguard.anyio.create_tcp_listener, policy=policy_of(options)
    )


def run(backend: str) -> None:
    """Serves for ever, on this event loop."""
    common.on_start.append(guard)
    anyio.run(anyio_trio.main, backend=backend)


if __name__ == "__main__":
    run("trio")
