"""What is told when a wrapper ends a connection by itself: once, with its facts; and nothing of what ends well."""

import asyncio
import contextlib
import inspect
import logging
import os
import selectors
import socket
import socketserver
import sys
import threading

import anyio
import pytest

import sockguard
from loopback import connect, reset, state_of
from loops import EACH_LOOP, skip_where_blind
from sockguard import aio
from sockguard import anyio as guarded_anyio
from sockguard._core.policy import Policy
from sockguard._kernel.one_socket import fd_of
from waiting import eventually
from wrapped import pair, shared

CLOSE, CLOSE_WAIT = 7, 8
STRICT = {"half_close": "close"}
EACH_BACKEND = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def d():
    """A guard that does nothing but at `d.tick()`."""
    with shared(fin_timeout=5, leak_after=None) as d:
        yield d


def ends(d) -> list:
    """Lists what was told of servers' ends: the other ones are in this process too, and the guard may find them."""
    return [event for event in d.told("connection_closed") if event.fields["side"] != "client"]


def only(d) -> dict:
    """Gives the fields of the one event there is, also after the guard has had its time."""
    for _ in range(20):
        d.tick(1)
    [event] = ends(d)
    return {"level": event.level, **event.fields}


def nothing_is_told(d) -> bool:
    """Tells whether nothing was told, also after the guard has had its time."""
    for _ in range(20):
        d.tick(1)
    return ends(d) == []


def name(address) -> str:
    return "{}:{}".format(*address[:2])


def reset_by_peer(p) -> None:
    reset(p.client)
    eventually(lambda: state_of(p.server) == CLOSE)


# --- A guarded socket ---


@pytest.mark.parametrize("is_known", [True, False], ids=["watched", "new"])
def test_an_error_that_ends_a_socket_is_told_once_with_its_facts(d, is_known):
    """Who it was, where it was opened, how old it was and with what the call failed; as information, not a warning."""
    with pair() as p:
        ours, theirs, fd = p.server.getsockname(), p.client.getsockname(), fd_of(p.server)
        if is_known:
            d.tick(3)
            d.tick(3)
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.recv(9)
        assert fd_of(p.server) == -1
        told = only(d)
        assert (told["local"], told["remote"], told["fd"]) == (name(ours), name(theirs), fd)
        assert (told["level"], told["reason"], told["step"], told["mode"]) == ("info", "failed", "closed", "enforce")
        assert told["error"].startswith("ConnectionResetError: [Errno ")
        assert told["side"] == "server" and told["pid"] == os.getpid() and told["unread"] == 0
        assert any("wrapped.py" in line for line in told["created_at"])
        assert told["seconds"] >= 0


@pytest.mark.needs_books
def test_the_age_is_that_of_the_connection(d):
    """Not of the error: `seconds` counts from when the guard has taken it in."""
    with pair() as p:
        d.now -= 1000
        d.tick(0)
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.recv(9)
        assert 1000 <= only(d)["seconds"] < 1060


def test_an_end_as_it_should_be_is_told_by_nobody(d):
    """The peer's EOF with half_close="close", and an end in both directions: so ends every healthy connection."""
    for fields, is_answered in ((STRICT, False), ({}, True)):
        with pair(**fields) as p:
            d.tick()
            if is_answered:
                p.server.shutdown(socket.SHUT_WR)
            p.client.close()
            eventually(lambda p=p: state_of(p.server) in (CLOSE, CLOSE_WAIT))
            assert p.server.recv(9) == b""
        assert nothing_is_told(d)


@pytest.mark.needs_books
def test_an_error_is_told_when_what_lay_before_it_is_read(d):
    """While bytes are unread nothing is closed; the call that finds no more closes, and what it tells is that error."""
    with pair() as p:
        p.client.sendall(b"last words")
        eventually(lambda: p.server.recv(99, socket.MSG_PEEK))
        reset_by_peer(p)
        with pytest.raises(ConnectionError):
            p.server.send(b"x")
        assert d.told("connection_closed") == []
        assert p.server.recv(99) == b"last words"
        assert p.server.recv(99) == b""
        assert (only(d)["reason"], fd_of(p.server)) == ("failed", -1)


def test_observing_tells_and_closes_nothing(d):
    """What would have been closed is told once, however often the call fails."""
    with pair(mode="observe") as p:
        reset_by_peer(p)
        for _ in range(3):
            with contextlib.suppress(OSError):
                p.server.send(b"x")
        assert fd_of(p.server) >= 0
        told = only(d)
        assert (told["reason"], told["mode"]) == ("failed", "observe")


def test_a_number_that_was_handed_out_is_told_of_once(d):
    """The socket is only shut down, and the guard that finds it later has nothing to add."""
    with pair() as p:
        p.server.fileno()
        d.tick()
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.recv(9)
        assert fd_of(p.server) >= 0
        assert (told := only(d))["reason"] == "failed" and told["step"] == "shut_down"


def test_what_the_guard_has_ended_is_told_by_the_guard_only(d):
    """The calls that find it over say nothing more."""
    with pair(idle_timeout=2) as p:
        d.tick()
        d.tick(10)
        d.tick(10)
        for call in (lambda: p.server.recv(9), lambda: p.server.send(b"x"), lambda: p.server.send(b"x")):
            with contextlib.suppress(OSError):
                call()
        assert only(d)["reason"] == "idle"


def test_a_leak_that_ends_by_a_failing_call_is_cleared_as_ended_by_us():
    """Not by its owner, who did nothing."""
    with shared(leak_after=1, fin_timeout=None) as d, pair() as p:
        p.client.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(p.server) == CLOSE_WAIT)
        for _ in range(5):
            d.tick(1)
        assert d.told("leak_detected") or not d.guard.registry.by_fd
        reset_by_peer(p)
        with pytest.raises(ConnectionError):
            p.server.send(b"x")
        for _ in range(10):
            d.tick(1)
        assert [event.fields["how"] for event in d.told("leak_cleared")] == ["ended_by_guard"]


def test_a_hook_that_raises_reaches_no_application():
    """A listener and a log handler that fail: the call fails as it would have, and the failure is told."""

    def fail(_event):
        raise LookupError("of the program's own")

    class Fails(logging.Handler):
        def emit(self, record):
            raise LookupError

    with pair() as p:
        process = sys.modules["sockguard._process"].running
        process.teller.add_listener(fail)
        logger, handler = logging.getLogger("sockguard"), Fails()
        logger.addHandler(handler)
        try:
            reset_by_peer(p)
            with pytest.raises(ConnectionResetError):
                p.server.recv(9)
            assert process.teller.flush(5)
        finally:
            logger.removeHandler(handler)
        names = [event.name for _, event in process.teller.recent]
        assert names.count("connection_closed") == 1 and "guard_failed" in names


def test_a_bug_of_ours_reaches_no_application(d, monkeypatch):
    """Neither where the connection is looked at, nor where it is told of."""

    def fail(*_args, **_fields):
        raise LookupError("a bug")

    for target in ("sockguard._engine.endings.find_cookie", "sockguard._engine.announcer.make_event"):
        with monkeypatch.context() as patch, pair() as p:
            patch.setattr(target, fail)
            reset_by_peer(p)
            with pytest.raises(ConnectionResetError):
                p.server.recv(9)
            assert fd_of(p.server) == -1
    assert len(d.told("guard_failed")) == 2


# --- socketserver ---


@pytest.mark.parametrize("keeps", [True, False])
def test_a_file_that_a_handler_keeps_is_told(d, keeps):
    """It would have kept the connection open; a handler that keeps none is nothing to tell of."""
    kept, done = [], threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            if keeps:
                kept.append(self.request.makefile("rb"))

    class Server(sockguard.GuardedServerMixin, socketserver.TCPServer):
        def shutdown_request(self, request):
            super().shutdown_request(request)
            done.set()

    with Server(("127.0.0.1", 0), Handler) as server, socket.create_connection(server.server_address) as client:
        server.handle_request()
        assert done.is_set() and client.recv(9) == b""
        if not keeps:
            assert nothing_is_told(d)
            return
        told = only(d)
        assert (told["level"], told["reason"], told["step"]) == ("info", "left_open", "closed")
        assert (told["local"], told["remote"]) == (name(server.server_address), name(client.getsockname()))


# --- Selectors ---


def read_all(ready) -> list:
    """Reads what is ready, and leaves it open."""
    for key, _ in ready:
        with contextlib.suppress(OSError):
            key.fileobj.recv(99)
    return ready


@pytest.mark.parametrize("is_guarded", [True, False])
@pytest.mark.needs_books
def test_what_a_selector_ends_is_told_once(d, is_guarded):
    """Though the guard has begun to end it before: the two of them tell of one end."""
    with connect() as c, sockguard.GuardedSelector(policy=Policy(fin_timeout=5)) as selector:
        sock = sockguard.guard_socket(c.server, Policy(fin_timeout=5)) if is_guarded else c.server
        sock.setblocking(False)
        c.client.sendall(b"unread")
        c.client.close()
        selector.register(sock, selectors.EVENT_READ)
        d.tick()
        for _ in range(10):
            d.tick(1)
        assert [event.fields["step"] for event in d.told("connection_closed")] == ["fin_sent"]
        assert sock.recv(99) == b"unread"
        eventually(lambda: selector.select(0) == [] and fd_of(sock) < 0)
        assert only(d)["reason"] == "half_closed"


@pytest.mark.needs_books
def test_what_a_selector_ends_by_itself_is_told_with_its_facts(d):
    """A handler that was told of the end of both directions has left it open: that is a warning, at first."""
    with connect() as c, sockguard.GuardedSelector() as selector:
        c.server.setblocking(False)
        names = name(c.server.getsockname()), name(c.client.getsockname())
        selector.register(c.server, selectors.EVENT_READ)
        d.tick()
        reset(c.client)
        eventually(lambda: read_all(selector.select(0)) == [] and fd_of(c.server) < 0)
        told = only(d)
        assert (told["level"], told["reason"], told["step"]) == ("warning", "dead", "closed")
        assert (told["local"], told["remote"]) == names
        assert told["created_at"] is None or any("test_endings.py" in line for line in told["created_at"])


# --- asyncio ---


def run_loop(kind, main) -> None:
    factory = pytest.importorskip("uvloop").new_event_loop if kind == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)
        runner.run(asyncio.wait_for(main(), 30))


def serve_one(kind, handle, client, policy=None) -> None:
    """Runs a server for one client, a coroutine function of (reader, writer), until its handler is through."""

    async def main():
        is_through = asyncio.Event()

        async def handle_and_say(reader, writer):
            try:
                await handle(reader, writer)
            finally:
                asyncio.get_running_loop().call_later(0.02, is_through.set)

        server = await aio.start_server(handle_and_say, "127.0.0.1", 0, policy=policy)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await client(reader, writer)
        await is_through.wait()
        server.close()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run_loop(kind, main)


async def hang_up(_, writer):
    writer.write_eof()


@EACH_LOOP
def test_a_writer_that_a_handler_leaves_open_is_told(d, kind):
    """As information: it is what the wrapper promises, and in plain asyncio it would be a leak."""

    async def handle(reader, _):
        await reader.read()

    serve_one(kind, handle, hang_up)
    told = only(d)
    assert (told["level"], told["reason"], told["step"]) == ("info", "left_open", "owner_asked")
    assert told["local"] and told["remote"] and told["fd"] >= 0 and told["side"] == "server"
    assert any("test_endings.py" in line for line in told["created_at"])


@EACH_LOOP
def test_a_writer_that_a_handler_closes_is_nothing_to_tell_of(d, kind):
    """Nor is one that it has handed on, and said so."""

    async def close(reader, writer):
        await reader.read()
        writer.close()

    kept = []

    async def hand_on(_, writer):
        aio.connection_of(writer).expect_open("handed on")
        kept.append(writer)

    async def take_over(*_):
        while not kept:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        kept[0].transport.abort()
        while kept[0].get_extra_info("socket").fileno() >= 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    serve_one(kind, close, hang_up)
    serve_one(kind, hand_on, take_over)
    assert nothing_is_told(d)


@EACH_LOOP
def test_a_handler_that_fails_is_told_where_asyncio_does_not_close(d, kind):
    """Newer asyncio closes the writer of a handler that raises, and reports the exception itself."""

    async def handle(reader, _):
        await reader.read()
        raise LookupError

    serve_one(kind, handle, hang_up)
    closes_itself = "transport.close()" in inspect.getsource(asyncio.StreamReaderProtocol.connection_made)
    assert [event.fields["reason"] for event in ends(d)] == ([] if closes_itself else ["left_open"])


@EACH_LOOP
def test_a_close_that_comes_to_nothing_is_told_once(d, kind):
    """The handler has left its writer open, and its peer takes nothing: that is one end, and one event."""
    through = []

    async def handle(_, writer):
        writer.transport.set_write_buffer_limits(high=2**26)
        writer.write(b"x" * 2**25)
        through.append(writer.transport)

    async def wait(*_):
        async with asyncio.timeout(20):
            while not through or through[0].get_extra_info("socket").fileno() >= 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def sleepy(reader, writer):
        writer.transport.pause_reading()
        await wait()

    serve_one(kind, handle, sleepy, Policy(drain_timeout=0.3))
    assert [event.fields["reason"] for event in d.told("connection_closed")] == ["close_stalled"]


@EACH_LOOP
def test_what_a_closed_server_ends_is_told(d, kind):
    """A handler is parked, and its peer has gone: after `fin_timeout` its transport is aborted, with a warning."""
    skip_where_blind(kind)
    policy = Policy(fin_timeout=0.3, drain_timeout=0.2)

    async def main():
        parked = []

        async def park(_, writer):
            parked.append(writer)
            await asyncio.sleep(1000)

        server = await aio.start_server(park, "127.0.0.1", 0, policy=policy)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write_eof()
        while not parked or aio.connection_of(parked[0]).state != "half_closed":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        server.close()
        assert await reader.read() == b""
        writer.close()
        await asyncio.sleep(0.05)

    run_loop(kind, main)
    told = [(e.level, e.fields["reason"], e.fields["setting"], e.fields["step"]) for e in d.told("connection_closed")]
    assert told[0] == ("warning", "half_closed", "fin_timeout", "owner_asked")
    assert len(told) == 1


# --- anyio ---


async def do_nothing():
    pass


def serve_stream(backend, handle, client, policy=None, at_end=do_nothing) -> None:
    """Runs a listener of anyio for one plain client, a function of its socket."""

    async def main():
        listener = await guarded_anyio.create_tcp_listener(local_host="127.0.0.1", policy=policy)
        is_begun, is_through = anyio.Event(), anyio.Event()

        async def handle_and_say(stream):
            is_begun.set()
            try:
                await handle(stream)
            finally:
                is_through.set()

        with anyio.fail_after(30):
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, handle_and_say)
                port = listener.extra(anyio.abc.SocketAttribute.local_port)
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    await is_begun.wait()
                    client(sock)
                    await is_through.wait()
                    await anyio.sleep(0.05)
                    await at_end()
                tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)


async def read_to_the_end(stream):
    with contextlib.suppress(anyio.BrokenResourceError):
        async for _ in stream:
            pass


@EACH_BACKEND
def test_a_stream_that_a_handler_leaves_open_is_told(d, backend):
    """As information, as of asyncio."""
    serve_stream(backend, read_to_the_end, lambda sock: sock.shutdown(socket.SHUT_WR))
    told = only(d)
    assert (told["level"], told["reason"], told["step"], told["side"]) == ("info", "left_open", "closed", "server")
    assert told["local"] and told["remote"] and told["fd"] >= 0


@EACH_BACKEND
@pytest.mark.parametrize("fields", [{}, STRICT])
def test_a_stream_that_ends_as_it_should_is_told_by_nobody(d, backend, fields):
    """Closed by its handler, or by its policy at the end of the stream."""

    async def handle(stream):
        await read_to_the_end(stream)
        if not fields:
            await stream.aclose()

    serve_stream(backend, handle, lambda sock: sock.shutdown(socket.SHUT_WR), Policy(**fields))
    assert nothing_is_told(d)


@EACH_BACKEND
def test_an_error_that_ends_a_stream_is_told_once(d, backend):
    """By the call that met it; what the handler leaves open then is closed already."""
    names = []

    def client(sock):
        names.append(name(sock.getsockname()))
        reset(sock)

    serve_stream(backend, read_to_the_end, client)
    told = only(d)
    assert (told["level"], told["reason"], told["remote"]) == ("info", "failed", names[0])
    assert told["error"].startswith("ConnectionResetError: ")


@EACH_BACKEND
def test_observing_a_stream_tells_and_closes_nothing(d, backend):
    """What the handler has left open stays open, and is told as what would have been closed."""
    kept = []

    async def handle(stream):
        kept.append(stream)
        await read_to_the_end(stream)

    async def check():
        assert not kept[0].is_over
        await kept[0].send(b"still there")
        await kept[0].aclose()

    serve_stream(backend, handle, lambda sock: sock.shutdown(socket.SHUT_WR), Policy(mode="observe"), check)
    assert [(e.fields["reason"], e.fields["mode"]) for e in ends(d)] == [("left_open", "observe")]
