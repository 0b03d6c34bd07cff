"""What users may write: every public name, with the types that they get. Never run; see tests/test_typing.py."""

import asyncio
import http.server
import selectors
import signal
import socket
import socketserver
import ssl
from typing import assert_type

import anyio
import anyio.abc
from anyio.streams.stapled import MultiListener

import sockguard
import sockguard.anyio
from sockguard import GuardedConnection, GuardedSocket, Policy, aio

# --- Policies ---

policy = Policy(
    mode="observe",
    half_close="close",
    fin_timeout=30,
    idle_timeout=None,
    keepalive=sockguard.Keepalive(idle=30, interval=5, count=3),
    heartbeat=sockguard.Heartbeat(b"PING\r\n", every=30, timeout=5, expect=b"+PONG\r\n"),
    max_lifetime_jitter=0.2,
)
assert_type(policy, Policy)
assert_type(policy.fin_timeout, float | None)
assert_type(policy.keepalive, sockguard.Keepalive | None)
assert_type(policy.heartbeat, sockguard.Heartbeat | None)
assert_type(Policy.from_mapping({"fin_timeout": 2, "keepalive": {"idle": 5}}, source="a.toml"), Policy)
assert_type(Policy.from_text({"fin_timeout": "off"}), Policy)
assert_type(Policy.from_environment({"SOCKGUARD_FIN_TIMEOUT": "2"}), Policy)
assert_type(sockguard.Keepalive(60, 15, 4, user_timeout=None).detection_time, float)

beats = [
    sockguard.Heartbeat(lambda: b"?", every=1.5),
    sockguard.Heartbeat(b"?", 1, timeout=1, expect=lambda data: data.endswith(b"!")),
    sockguard.Heartbeat.redis(every=30, timeout=5),
    sockguard.Heartbeat.telnet_nop(),
    sockguard.Heartbeat.sse(every=15),
    sockguard.Heartbeat.websocket(mask=lambda: b"1234"),
    sockguard.Heartbeat.line(b"PING", b"PONG", every=10, timeout=2),
]
assert_type(beats, list[sockguard.Heartbeat])
assert_type(beats[0].every, float)

# --- The whole process ---

guard = sockguard.install(policy)
assert_type(guard, sockguard.Guard)
with sockguard.install(fin_timeout=30, mode="enforce") as entered:
    assert_type(entered, sockguard.Guard)
assert_type(guard.policy, Policy)
sockguard.uninstall()
sockguard.register(signal.SIGUSR1, chain=True)
assert_type(sockguard.unregister(signal.SIGUSR1), bool)
assert_type(sockguard.__version__, str)

leaks = sockguard.find_leaks(min_age=10)
assert_type(leaks, list[sockguard.Leak])
for leak in leaks:
    assert_type(leak.cause, sockguard.Cause)
    assert_type(leak.cause is sockguard.Cause.EOF_IGNORED, bool)
    assert_type(leak.cause.remedy, str)
    assert_type(leak.pid, int | None)
    assert_type(leak.age_seconds, float | None)
    assert_type(leak.created_at, tuple[str, ...] | None)

# --- Errors ---


def asks() -> None:
    """Catches what sockguard raises, by who must act."""
    try:
        Policy(fin_timeout=-1)
    except sockguard.PolicyError as error:
        assert_type(error.field, str)
        assert_type(error.value, object)
        assert_type(error.remedy, str)
        assert_type(error.source, str)
    except sockguard.UsageError as error:
        as_value_error: ValueError = error
        raise as_value_error from error
    except sockguard.KernelUnavailable as error:
        assert_type((error.feature, error.reason, error.remedy), tuple[str, str, str])
    except sockguard.InternalError as error:
        as_base: sockguard.SockguardError = error
        raise as_base from error


# --- Tests of one's own ---


@sockguard.no_socket_leaks(action="warn")
def checked(number: int) -> str:
    """Keeps its type under the decorator."""
    return str(number)


@sockguard.no_socket_leaks()
async def checked_later(number: int) -> str:
    """Keeps its type, too."""
    return str(number)


async def leaves_nothing_open() -> None:
    """Looks at blocks, and at what they left open."""
    assert_type(checked(1), str)
    assert_type(await checked_later(1), str)
    try:
        with sockguard.no_socket_leaks():
            pass
        async with sockguard.no_socket_leaks():
            pass
    except sockguard.SocketLeakError as error:
        assert_type(error.owner, str)
        assert_type(error.leaks[0].fd, int | None)
        assert_type(error.leaks[0].created_at, tuple[str, ...])


# --- Sockets ---

listener = sockguard.create_server(("127.0.0.1", 0), policy=policy, backlog=5, reuse_port=True)
assert_type(listener, GuardedSocket)
sock, address = listener.accept()
assert_type(sock, GuardedSocket)
plain: socket.socket = sock
assert_type(sockguard.guard_socket(plain, policy), GuardedSocket)
assert_type(sockguard.guard_socket(plain), GuardedSocket)
assert_type(GuardedSocket(socket.AF_INET, socket.SOCK_STREAM, policy=None), GuardedSocket)
assert_type(sock.recv(10), bytes)
assert_type(sock.recv_into(bytearray(10)), int)
assert_type(sock.send(b"x"), int)
assert_type(sock.sendall(b"x"), None)
assert_type(sock.dup(), GuardedSocket)
assert_type(sock.detach(), int)
assert_type(sock.fileno(), int)
assert_type(sock.last_update, float | None)
assert_type(sock.bytes_received, int | None)
assert_type(sock.bytes_sent, int | None)
with sock as same:
    assert_type(same, GuardedSocket)
with ssl.create_default_context().wrap_socket(sock) as secure:
    assert_type(secure, ssl.SSLSocket)

connection = sock.connection
assert_type(connection, GuardedConnection)
assert_type(connection.policy, Policy)
assert_type(connection.state, str)
assert_type(connection.last_update, float | None)
assert_type(connection.bytes_received, int | None)
assert_type(connection.bytes_sent, int | None)
assert_type(connection.rtt, float | None)
assert_type(connection.ended_by, str | None)
if connection.facts is not None:
    assert_type(connection.facts.unread, int)
assert_type(connection.expect_open("a client that waits for news"), None)
with connection.deadline(2.5) as deadline:
    assert_type(deadline.expired, bool)
with connection.sending():
    sock.sendall(b"in two ")
    sock.sendall(b"parts")


class Server(sockguard.GuardedServerMixin, socketserver.ThreadingTCPServer):
    """A server with a policy of its own."""

    policy = Policy(idle_timeout=60)


class WebServer(sockguard.GuardedServerMixin, http.server.ThreadingHTTPServer):
    """A web server."""


with Server(("127.0.0.1", 0), socketserver.StreamRequestHandler) as server:
    assert_type(server, Server)
WebServer(("", 0), http.server.SimpleHTTPRequestHandler, policy=policy).server_close()

with sockguard.GuardedSelector(selectors.PollSelector(), policy) as selector:
    assert_type(selector, sockguard.GuardedSelector)
    assert_type(selector.register(sock, selectors.EVENT_READ, data="x"), selectors.SelectorKey)
    assert_type(selector.select(1.0), list[tuple[selectors.SelectorKey, int]])
base: selectors.BaseSelector = sockguard.GuardedSelector(policy=policy)

# --- asyncio ---


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Handles a connection."""
    assert_type(aio.connection_of(writer), GuardedConnection)
    assert_type(aio.connection_of(writer.transport), GuardedConnection)
    writer.write(await reader.read())


def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Is no coroutine."""


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Gives what nobody asks for."""
    return len(await reader.read())


class Echo(asyncio.BufferedProtocol):
    """A protocol."""


async def use_asyncio() -> None:
    """Uses all of sockguard.aio."""
    assert_type(await aio.start_server(serve, "127.0.0.1", 0, limit=1000, policy=policy, backlog=5), asyncio.Server)
    assert_type(await aio.start_server(hand_on, port=0), asyncio.Server)
    assert_type(await aio.start_server(count, port=0), asyncio.Server)
    assert_type(await aio.start_unix_server(serve, "/tmp/socket", policy=policy), asyncio.Server)
    assert_type(await aio.create_server(Echo, "127.0.0.1", 0, policy=policy, reuse_port=True), asyncio.Server)
    transport, echo = await aio.create_connection(Echo, "127.0.0.1", 80, policy=policy, ssl=True)
    assert_type(transport, asyncio.Transport)
    assert_type(echo, Echo)
    assert_type(aio.connection_of(echo), GuardedConnection)
    assert_type(
        await aio.open_connection("127.0.0.1", 80, policy=policy),
        tuple[asyncio.StreamReader, asyncio.StreamWriter],
    )
    assert_type(
        await aio.open_unix_connection("/tmp/socket", limit=1000),
        tuple[asyncio.StreamReader, asyncio.StreamWriter],
    )


# --- anyio ---


async def handle(stream: sockguard.anyio.GuardedStream) -> None:
    """Handles a connection."""
    assert_type(stream.connection, GuardedConnection)
    assert_type(stream.extra(sockguard.anyio.GuardedAttribute.connection), GuardedConnection)
    assert_type(await stream.receive(100), bytes)
    await stream.send(b"x")
    await stream.send_eof()
    await stream.aclose()
    async for data in stream:
        assert_type(data, bytes)
    any_stream: anyio.abc.SocketStream = stream
    assert_type(stream.unguarded, anyio.abc.ByteStream)
    assert_type(sockguard.anyio.guard_stream(any_stream, policy), sockguard.anyio.GuardedStream)


async def use_anyio() -> None:
    """Uses all of sockguard.anyio."""
    multi = await sockguard.anyio.create_tcp_listener(local_host="127.0.0.1", local_port=80, policy=policy)
    assert_type(multi, MultiListener[sockguard.anyio.GuardedStream])
    await multi.serve(handle)
    one = multi.listeners[0]
    assert isinstance(one, sockguard.anyio.GuardedListener)
    assert_type(await one.accept(), sockguard.anyio.GuardedStream)
    async with await sockguard.anyio.connect_tcp("localhost", 80, policy=policy) as stream:
        assert_type(stream, sockguard.anyio.GuardedStream)
        with anyio.fail_after(1):
            await handle(stream)
