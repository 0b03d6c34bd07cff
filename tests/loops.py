"""Programs on an event loop: asyncio's own and uvloop's, in this process, with the process's guard."""

import asyncio
import contextlib
import gc
import ssl
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sockguard._process as process
from sockguard._engine.current import current_guard
from sockguard._engine.transports import fd_of_transport
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard.adapters.loops import group as loop_group
from sockguard.adapters.loops.members import Member

__all__ = [
    "EACH_LOOP",
    "Errors",
    "address_of",
    "client_tls",
    "fresh_guard",
    "known_members",
    "run",
    "server_tls",
    "skip_where_blind",
    "until",
]

EACH_LOOP = pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
PEM = Path(__file__).parent / "faults" / "programs" / "localhost.pem"
PATIENCE = 10.0
"""Seconds; what is waited for takes much less, so this is only met by a bug or a stopped machine."""

Errors = list[dict[str, Any]]
"""What an event loop told its exception handler."""


def run(kind: str, main: Callable[[], Awaitable[object]], errors: Errors | None = None) -> Any:
    """Runs a program on a loop of its own; whatever that reports must be wanted.

    Args:
        errors: Takes what is reported; without it nothing must be.
    """
    seen: Errors = [] if errors is None else errors

    async def observed() -> object:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        result = await asyncio.wait_for(main(), 60)
        await until(lambda: [m.connection for m in known_members() if fd_of_transport(m.transport()) >= 0] == [])
        return result

    factory = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else None
    runner = asyncio.Runner(loop_factory=factory)
    try:
        result = runner.run(observed())
    except BaseException:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transports left open, by which uvloop would never come to an end
            runner.close()
        raise
    runner.close()
    assert errors is not None or not seen, seen
    return result


def known_members() -> list[Member]:
    """Lists the guarded transports of the running loop of which something is still kept."""
    members = [entry.member for entry in tuple(loop_group._members._entries.values())]  # noqa: SLF001
    return [member for member in members if member.group.loop is asyncio.get_running_loop()]


def skip_where_blind(kind: str) -> None:
    """Skips a test of what depends on what was sent: on uvloop nobody tells, unless the kernel does."""
    if kind == "uvloop" and not KERNEL_KEEPS_BOOKS:
        pytest.skip("on uvloop only the kernel tells what was sent")


async def until(predicate: Callable[[], object], patience: float = PATIENCE) -> None:
    """Waits until the predicate is true."""
    async with asyncio.timeout(patience):
        while not predicate():  # noqa: ASYNC110 - whatever it is, nobody tells
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def fresh_guard() -> Iterator[Callable[[], list[str]]]:
    """Ends the guard that a program has made, and holds it to have failed nowhere; gives what it has told by then."""
    process.end()

    def told() -> list[str]:
        return [] if process.running is None else [event.name for _, event in process.running.teller.recent]

    try:
        yield told
        recent = () if process.running is None else process.running.teller.recent
        assert [event.message for _, event in recent if event.name == "guard_failed"] == []
    finally:
        process.end()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of what is not guarded, and left open by purpose
            gc.collect()
    assert current_guard() is None


def address_of(server: Any) -> Any:
    """Tells where a server listens."""
    return server.sockets[0].getsockname()


def server_tls() -> ssl.SSLContext:
    """Makes the context of a TLS server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def client_tls() -> ssl.SSLContext:
    """Makes the context of a TLS client that trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
