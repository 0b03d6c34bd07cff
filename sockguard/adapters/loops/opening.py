"""asyncio with a guard: the functions that open connections, under their own names and with a policy.

What they return is asyncio's own: transports, protocols, readers, writers and servers, of asyncio
or uvloop, with and without TLS. Each connection is in the care of the process's guard from
the moment that it is made, with the policy that is given here. The data does not pass
through any code of ours, except where docs/howto/asyncio.md says so.

Beyond that, a writer belongs to the handler that it was given to: when that returns, fails or is
cancelled, the writer is closed. And a server that was closed waits for no connection that nobody ends.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, cast

from sockguard._core.policy import Policy
from sockguard._engine.current import shared_guard
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.sites import capture
from sockguard._engine.terms import check_policy
from sockguard.adapters.loops.group import LoopGroup, find_connection
from sockguard.adapters.loops.options import ConnectionOptions, ServerOptions
from sockguard.adapters.loops.server import guarded_server
from sockguard.adapters.loops.trampolines import StreamTrampoline, over
from sockguard.errors import UsageError

__all__ = [
    "connection_of",
    "create_connection",
    "create_server",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

P = TypeVar("P", bound=asyncio.BaseProtocol)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object] | None]
LIMIT = 65536
"""Bytes that a StreamReader buffers, asyncio's own default (asyncio/streams.py)."""


def connection_of(thing: asyncio.StreamWriter | asyncio.BaseTransport | asyncio.BaseProtocol) -> GuardedConnection:
    """Gives what sockguard knows of a connection, and what can be said of it.

    It is known from before the handler or `connection_made()` is called, also after `start_tls`.

    Args:
        thing: A writer, a transport, or a protocol. Of a protocol that has several transports it is the last one.

    Raises:
        UsageError: It is none of a connection that one of the functions here has opened.
    """
    connection = find_connection(thing)
    if connection is None:
        msg = (
            f"{type(thing).__name__} is of no guarded connection: give a writer, transport or protocol "
            f"of one that was opened by sockguard.aio"
        )
        raise UsageError(msg)
    return connection


async def start_server(
    client_connected_cb: Handler,
    host: Any = None,
    port: Any = None,
    *,
    limit: int = LIMIT,
    policy: Policy | None = None,
    **kwds: Unpack[ServerOptions],
) -> asyncio.Server:
    """Starts a server of streams, as `asyncio.start_server` does.

    A handler that is a coroutine function owns its writer: once it has returned, failed or
    been cancelled, the writer is closed, unless it was said in it that somebody else has it by
    then: `connection_of(writer).expect_open("...")`. What has not left the writer within
    `drain_timeout`, counted from the last byte that was acknowledged, is given up. A plain
    function as callback is asyncio's way to hand the writer on, so it is left alone, unless it raises.

    Args:
        client_connected_cb: As for asyncio.
        host: As for asyncio.
        port: As for asyncio.
        limit: As for asyncio, bytes.
        policy: What is wanted of its connections; that of the process's guard if not given.
        **kwds: As for asyncio, on the Python that runs.

    Returns:
        The server. Once it is closed, connections that nobody ends are aborted after `drain_timeout` without
        progress: those that are over, and those whose handler has ended. Half-closed ones have `fin_timeout`.

    Raises:
        UsageError: `policy` is no Policy.
    """
    group = _group(policy, is_server=True)
    make = _stream_factory(group, client_connected_cb, limit)
    return _serving(await group.loop.create_server(make, host, port, **kwds), group)


async def start_unix_server(
    client_connected_cb: Handler,
    path: Any = None,
    *,
    limit: int = LIMIT,
    policy: Policy | None = None,
    **kwds: Any,
) -> asyncio.Server:
    """Starts a server of streams on a Unix socket, as `asyncio.start_unix_server` does; see `start_server`.

    The kernel keeps no books of such sockets, so the bytes are counted on their way. On uvloop that
    cannot be done for what is sent, so time-outs that depend on it do not apply: see docs/howto/asyncio.md.

    Raises:
        UsageError: `policy` is no Policy.
    """
    group = _group(policy, is_server=True)
    make = _stream_factory(group, client_connected_cb, limit)
    return _serving(await group.loop.create_unix_server(make, path, **kwds), group)


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Any = None,
    port: Any = None,
    *,
    policy: Policy | None = None,
    **kwds: Unpack[ServerOptions],
) -> asyncio.Server:
    """Creates a server of protocols, as `loop.create_server` of the running loop does.

    A transport whose `connection_made()` raises is closed, as nobody serves it.

    Args:
        protocol_factory: As for asyncio.
        host: As for asyncio.
        port: As for asyncio.
        policy: What is wanted of its connections; that of the process's guard if not given.
        **kwds: As for asyncio, on the Python that runs.

    Returns:
        The server. Once it is closed, connections that are over are aborted after `drain_timeout`, and those whose
        peer has hung up after `fin_timeout` without progress.

    Raises:
        UsageError: `policy` is no Policy.
    """
    group = _group(policy, is_server=True)

    def make() -> Any:
        return over(protocol_factory(), group)

    return _serving(await group.loop.create_server(make, host, port, **kwds), group)


async def create_connection(
    protocol_factory: Callable[[], P],
    host: Any = None,
    port: Any = None,
    *,
    policy: Policy | None = None,
    **kwds: Unpack[ConnectionOptions],
) -> tuple[asyncio.Transport, P]:
    """Connects and makes a protocol, as `loop.create_connection` of the running loop does.

    Args:
        protocol_factory: As for asyncio.
        host: As for asyncio.
        port: As for asyncio.
        policy: What is wanted of the connection; that of the process's guard if not given.
        **kwds: As for asyncio, on the Python that runs.

    Raises:
        UsageError: `policy` is no Policy.
    """
    group = _group(policy, is_server=False)
    made: list[P] = []

    def make() -> Any:
        made.append(protocol_factory())
        return over(made[-1], group)

    transport, _ = await group.loop.create_connection(make, host, port, **kwds)
    return transport, made[-1]


async def open_connection(
    host: Any = None,
    port: Any = None,
    *,
    limit: int = LIMIT,
    policy: Policy | None = None,
    **kwds: Unpack[ConnectionOptions],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects and makes streams, as `asyncio.open_connection` does.

    Args:
        host: As for asyncio.
        port: As for asyncio.
        limit: As for asyncio, bytes.
        policy: What is wanted of the connection; that of the process's guard if not given.
        **kwds: As for asyncio, on the Python that runs.

    Raises:
        UsageError: `policy` is no Policy.
    """
    group = _group(policy, is_server=False)
    reader, protocol, make = _client_streams(group, limit)
    transport, _ = await group.loop.create_connection(make, host, port, **kwds)
    return reader, asyncio.StreamWriter(transport, protocol, reader, group.loop)


async def open_unix_connection(
    path: Any = None, *, limit: int = LIMIT, policy: Policy | None = None, **kwds: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to a Unix socket, as `asyncio.open_unix_connection` does; for the price see `start_unix_server`.

    Raises:
        UsageError: `policy` is no Policy.
    """
    group = _group(policy, is_server=False)
    reader, protocol, make = _client_streams(group, limit)
    transport, _ = await group.loop.create_unix_connection(make, path, **kwds)
    return reader, asyncio.StreamWriter(transport, protocol, reader, group.loop)


def _group(policy: Policy | None, *, is_server: bool) -> LoopGroup:
    """Begins a call: refuses what is no policy, and finds who called; before anything is awaited."""
    check_policy(policy)
    return LoopGroup(shared_guard(), asyncio.get_running_loop(), policy, is_server=is_server, site=capture(3))


def _serving(server: asyncio.AbstractServer, group: LoopGroup) -> asyncio.Server:
    return cast("asyncio.Server", guarded_server(server, group))


def _stream_factory(group: LoopGroup, handler: Handler | None, limit: int) -> Callable[[], Any]:
    """Makes the factory that `asyncio.start_server` makes, with trampolines over its protocols."""
    loop = group.loop
    callback = handler if handler is None else group.noting_writers(handler)

    def make() -> Any:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, callback, loop=loop)
        return StreamTrampoline(protocol, group)

    return make


def _client_streams(
    group: LoopGroup, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamReaderProtocol, Callable[[], Any]]:
    """Makes what `asyncio.open_connection` makes, with a trampoline over its protocol."""
    reader = asyncio.StreamReader(limit=limit, loop=group.loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=group.loop)
    return reader, protocol, lambda: over(protocol, group)
