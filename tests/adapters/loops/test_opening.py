"""asyncio's functions with a guard, on real sockets, of asyncio and of uvloop: streams, protocols, TLS, Unix."""

import asyncio
import contextlib
import functools
import gc
import os
import socket
import ssl
import sys
import time
import warnings
import weakref

import pytest

import sockguard
from loopback import reset, state_of
from loops import (
    EACH_LOOP,
    address_of,
    client_tls,
    fresh_guard,
    known_members,
    run,
    server_tls,
    skip_where_blind,
    until,
)
from sockguard import aio
from sockguard._core.policy import Policy
from sockguard._engine.current import current_guard
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard.adapters.loops.proxies import real_protocol
from sockguard.aio import connection_of
from sockguard.errors import UsageError

LONG = 1000.0
"""Seconds that no test waits: what ends earlier was not ended by this time-out."""
ESTABLISHED = 1
QUICK = Policy(drain_timeout=0.4, fin_timeout=LONG)


@pytest.fixture(autouse=True)
def told():
    """Each test has a guard of its own, which must not fail; gives the names of the events so far."""
    with fresh_guard() as events:
        yield events


async def connect(server):
    """Connects as anybody would, without a guard."""
    return await asyncio.open_connection(*address_of(server)[:2])


async def hang_up(writer):
    """Closes a stream and waits for it."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def read_on(reader, writer):
    """A handler that reads to the end and closes, as it should be."""
    await reader.read()
    writer.close()


# --- A handler and its writer ---


def fail():
    raise LookupError


@EACH_LOOP
@pytest.mark.parametrize("ending", ["returns", "raises", "stores"])
def test_a_handler_that_ends_takes_its_writer_along(kind, ending):
    """Whether it returns or raises, and even if somebody has kept the writer: the peer reads the end of the stream."""
    kept, errors = [], []

    async def handle(reader, writer):
        if ending == "stores":
            kept.append(writer)
        writer.write(await reader.readexactly(2))
        if ending == "raises":
            fail()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await connect(server)
            writer.write(b"hi")
            assert await asyncio.wait_for(reader.read(), 20) == b"hi"
            await hang_up(writer)
            await until(lambda: all(w.transport.is_closing() for w in kept))

    run(kind, main, errors)
    assert [context["message"] for context in errors] == ["Unhandled exception in client_connected_cb"] * (
        ending == "raises"
    )


def reports_of(start_server, ending) -> list[tuple[str, object]]:
    """Runs a server whose handler ends badly, and lists what the event loop says of it."""
    errors, tasks, writers, is_read = [], [], [], asyncio.Event()

    async def handle(reader, writer):
        tasks.append(asyncio.current_task())
        writers.append(writer)
        await reader.readexactly(1)
        is_read.set()
        if ending == "raises":
            fail()
        await asyncio.sleep(LONG)

    async def main():
        async with await start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await connect(server)
            writer.write(b"x")
            await is_read.wait()
            if ending == "is cancelled":
                tasks[0].cancel()
            if start_server is aio.start_server:
                assert await asyncio.wait_for(reader.read(), 20) == b""
            else:
                await until(tasks[0].done)
                await asyncio.sleep(0)  # its callback, which reports
                writers[0].close()  # asyncio leaves it open, and 3.12's server waits for it
            await hang_up(writer)

    run("asyncio", main, errors)
    return [(context["message"].partition("(")[0], type(context.get("exception"))) for context in errors]


@pytest.mark.parametrize("ending", ["raises", "is cancelled"])
def test_what_a_handler_raises_is_reported_as_by_asyncio(ending):
    """The same words and exceptions, whatever the Python; and one that was cancelled is closed, too."""
    assert reports_of(aio.start_server, ending) == reports_of(asyncio.start_server, ending)


@EACH_LOOP
def test_a_handler_may_hand_its_writer_on(kind):
    """It says so by expect_open(): then the writer outlives it, as that of a chat server does."""
    members = []

    async def join(reader, writer):
        connection_of(writer).expect_open("a member of the chat")
        members.append(writer)

    async def main():
        async with await aio.start_server(join, "127.0.0.1", 0, policy=QUICK) as server:
            reader, writer = await connect(server)
            await until(lambda: members)
            await asyncio.sleep(0.05)
            members[0].write(b"hello\n")
            assert await asyncio.wait_for(reader.readline(), 20) == b"hello\n"
            members[0].close()
            await hang_up(writer)

    run(kind, main)


@EACH_LOOP
def test_a_plain_function_hands_its_writer_on(kind):
    """That is asyncio's own way to do so; nothing is closed."""
    writers = []

    async def main():
        server = await aio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0, policy=QUICK)
        async with server:
            reader, writer = await connect(server)
            await until(lambda: writers)
            await asyncio.sleep(0.05)
            writers[0].write(b"hello\n")
            assert await asyncio.wait_for(reader.readline(), 20) == b"hello\n"
            writers[0].close()
            await hang_up(writer)

    run(kind, main)


@EACH_LOOP
def test_a_plain_function_that_raises_hands_nothing_on(kind):
    """The event loop reports it, as ever; the peer reads the end behind what was written, and no reset."""
    errors, answer = [], b"a" * 100_000

    def refuse(_, writer):
        time.sleep(0.05)  # so that something is unread
        writer.write(answer)
        fail()

    async def main():
        loop = asyncio.get_running_loop()
        server = await aio.start_server(refuse, "127.0.0.1", 0, policy=QUICK)
        with socket.create_connection(address_of(server)) as client:
            client.sendall(b"request")
            client.setblocking(False)
            got = b""
            while piece := await asyncio.wait_for(loop.sock_recv(client, 65536), 20):
                got += piece
            assert got == answer
            server.close()
            await asyncio.wait_for(server.wait_closed(), 10)

    run(kind, main, errors)
    assert [type(context["exception"]) for context in errors] == [LookupError]


@EACH_LOOP
def test_a_plain_function_may_hand_its_writer_on_and_raise(kind):
    """If it has said so by expect_open() before: nothing is closed."""
    members = []

    def join(_, writer):
        connection_of(writer).expect_open("a member of the chat")
        members.append(writer)
        fail()

    async def main():
        async with await aio.start_server(join, "127.0.0.1", 0, policy=QUICK) as server:
            reader, writer = await connect(server)
            await until(lambda: members)
            members[0].write(b"hello\n")
            assert await asyncio.wait_for(reader.readline(), 20) == b"hello\n"
            members[0].close()
            await hang_up(writer)

    run(kind, main, [])


@EACH_LOOP
def test_observe_touches_nothing(kind):
    """A writer that was left open stays open."""
    kept = []

    async def handle(_, writer):
        kept.append(writer)

    async def main():
        server = await aio.start_server(handle, "127.0.0.1", 0, policy=Policy(mode="observe"))
        _, writer = await connect(server)
        await until(lambda: kept)
        await asyncio.sleep(0.05)
        assert not kept[0].is_closing()
        kept[0].close()
        await hang_up(writer)
        server.close()

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
def test_a_parked_handler_is_ended_by_the_policy(kind, told):
    """It waits for a queue that nobody fills while its peer has gone: after `fin_timeout` its transport is aborted."""
    skip_where_blind(kind)
    queue, writers, tasks = asyncio.Queue(), [], []

    async def park(_, writer):
        writers.append(writer)
        tasks.append(asyncio.current_task())
        await queue.get()

    async def main():
        async with await aio.start_server(park, "127.0.0.1", 0, policy=Policy(fin_timeout=0.3)) as server:
            _, writer = await connect(server)
            await until(lambda: writers)
            await hang_up(writer)
            await until(lambda: connection_of(writers[0]).state == "closed")
            assert writers[0].is_closing()
            assert "had hung up" in connection_of(writers[0]).ended_by
            assert not tasks[0].done()
            tasks[0].cancel()

    run(kind, main, [])
    assert "connection_closed" in told()


@pytest.mark.slow
@EACH_LOOP
def test_what_was_written_arrives_however_slow_the_reader(kind):
    """The handler returns with megabytes unsent; as long as the peer takes some, it gets them all."""
    size = 24 << 20

    async def handle(_, writer):
        writer.write(b"x" * size)

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, policy=QUICK) as server:
            reader, writer = await asyncio.open_connection(*address_of(server), limit=1 << 20)
            n, slept = 0, 0.0
            while piece := await reader.read(2 << 20):
                n += len(piece)
                if slept < 1.2:  # three times the drain_timeout
                    await asyncio.sleep(0.1)
                    slept += 0.1
            assert n == size
            await hang_up(writer)

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
def test_what_was_written_arrives_though_the_loop_was_blocked(kind):
    """Nothing can leave meanwhile, so that time does not count: the peer, which reads on, gets it all."""
    size = 24 << 20

    async def handle(_, writer):
        writer.write(b"x" * size)

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, policy=QUICK) as server:
            reader, writer = await asyncio.open_connection(*address_of(server), limit=1 << 20)
            n = len(await reader.read(1))
            for _ in range(3):
                time.sleep(2 * QUICK.drain_timeout)  # noqa: ASYNC251 - that is what it is about
                await asyncio.sleep(0.01)
            while piece := await reader.read(2 << 20):
                n += len(piece)
            assert n == size
            await hang_up(writer)

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
def test_a_peer_that_takes_nothing_is_given_up(kind):
    """The handler has returned, megabytes are unsent, and nothing moves for `drain_timeout`: aborted."""
    writers = []

    async def handle(_, writer):
        writers.append(writer)
        writer.write(b"x" * (64 << 20))

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, policy=QUICK) as server:
            with socket.create_connection(address_of(server)):
                await until(lambda: writers)
                await until(lambda: connection_of(writers[0]).state == "closed")

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
@pytest.mark.parametrize("ending", ["returns", "raises", "is cancelled"])
def test_an_answer_survives_what_was_not_read(kind, ending):
    """Unread bytes make the kernel reset a connection at close(), and the peer loses our answer: they are drained."""
    answer = b"a" * 100_000

    async def handle(reader, writer):
        await reader.readexactly(1)
        await asyncio.sleep(0.1)  # so that the upload is there, and more of it than the reader takes
        writer.write(answer)
        if ending == "raises":
            fail()
        if ending == "is cancelled":
            raise asyncio.CancelledError

    async def main():
        loop = asyncio.get_running_loop()
        async with await aio.start_server(handle, "127.0.0.1", 0, limit=1024) as server:
            with socket.create_connection(address_of(server)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, b"u" * 300_000)
                await asyncio.sleep(0.3)  # the handler has ended, and a reset would have come
                got = b""
                while piece := await asyncio.wait_for(loop.sock_recv(client, 65536), 20):
                    got += piece
                assert got == answer

    run(kind, main, [])


# --- A server that is closed ---


def test_a_server_of_asyncio_is_one():
    """By its class, and so in all that asks for it; and it does what such a server does."""

    async def main():
        server = await aio.start_server(lambda *_: None, "127.0.0.1", 0)
        assert isinstance(server, asyncio.Server)
        assert repr(server).startswith("<Server sockets=(")
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        task = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not server.is_serving()
        assert server.sockets == ()

    run("asyncio", main)


def test_a_server_of_uvloop_is_stood_for():
    """Its class is in C; what stands for it is an asyncio.AbstractServer, with all that its server can do."""

    async def main():
        server = await aio.start_server(lambda *_: None, "127.0.0.1", 0, start_serving=False)
        assert isinstance(server, asyncio.AbstractServer)
        assert repr(server).startswith("<Server sockets=[")
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        assert len(server.sockets) == 1
        task = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not server.is_serving()
        await server.wait_closed()

    run("uvloop", main)


@pytest.mark.slow
@EACH_LOOP
@pytest.mark.parametrize("leak", ["parked", "paused", "unsent"])
def test_wait_closed_waits_for_no_leak(kind, leak):
    """The handler is parked, nobody sees that the peer has reset, or nobody takes what the handler has left."""
    skip_where_blind(kind)
    writers, never = [], asyncio.Event()
    policy = Policy(drain_timeout=0.4, fin_timeout=0.4 if leak == "parked" else LONG)

    async def handle(_, writer):
        writers.append(writer)
        if leak == "unsent":
            writer.write(b"x" * (64 << 20))
            writer.close()
            return
        if leak == "paused":
            writer.transport.pause_reading()
        with contextlib.suppress(asyncio.CancelledError):
            await never.wait()

    async def main():
        server = await aio.start_server(handle, "127.0.0.1", 0, policy=policy)
        with socket.create_connection(address_of(server)) as client:
            await until(lambda: writers)
            if leak == "parked":
                client.close()
            elif leak == "paused":
                reset(client)
            server.close()
            await asyncio.wait_for(server.wait_closed(), 10)
            await until(lambda: connection_of(writers[0]).state == "closed")

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
def test_serve_forever_that_is_cancelled_waits_for_no_leak(kind):
    """It closes the server itself, and then waits for its connections."""
    skip_where_blind(kind)
    writers, never = [], asyncio.Event()

    async def handle(_, writer):
        writers.append(writer)
        with contextlib.suppress(asyncio.CancelledError):
            await never.wait()

    async def main():
        server = await aio.start_server(handle, "127.0.0.1", 0, policy=Policy(fin_timeout=0.4))
        task = asyncio.create_task(server.serve_forever())
        _, writer = await connect(server)
        await until(lambda: writers)
        await hang_up(writer)
        task.cancel()
        await asyncio.wait_for(asyncio.wait([task]), 10)
        await until(lambda: connection_of(writers[0]).state == "closed")

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
@pytest.mark.parametrize("why", ["its peer is there", "it is at work", "fin", "allow", "observe", "no drain_timeout"])
def test_a_closed_server_leaves_live_connections_alone(kind, why):
    """Those whose handler is at work, and those that are not to be ended: they answer when others would be gone."""
    policy = {
        "fin": Policy(fin_timeout=None, drain_timeout=0.2),
        "allow": Policy(half_close="allow", drain_timeout=0.2),
        "observe": Policy(mode="observe", drain_timeout=0.2),
        "no drain_timeout": Policy(drain_timeout=None),
    }.get(why, Policy(drain_timeout=0.2))
    go, started = asyncio.Event(), asyncio.Event()

    async def handle(_, writer):
        started.set()
        await go.wait()
        writer.write(b"answer")
        await writer.drain()
        writer.close()

    async def main():
        server = await aio.start_server(handle, "127.0.0.1", 0, policy=policy)
        reader, writer = await connect(server)
        await started.wait()
        if why != "its peer is there":
            writer.write_eof()
        server.close()
        waiting = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0.8)
        assert waiting.done() == (kind == "uvloop" or sys.version_info < (3, 12))  # it never waited there
        go.set()
        assert await asyncio.wait_for(reader.read(), 20) == b"answer"
        await asyncio.wait_for(waiting, 20)
        await hang_up(writer)

    run(kind, main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
def test_clients_of_a_server_can_be_closed():
    """Server.close_clients() and abort_clients() reach the connections."""

    async def main():
        for close in ("close_clients", "abort_clients"):
            async with await aio.start_server(read_on, "127.0.0.1", 0) as server:
                reader, writer = await connect(server)
                await asyncio.sleep(0.05)
                getattr(server, close)()
                assert await asyncio.wait_for(reader.read(), 20) == b""
                await hang_up(writer)

    run("asyncio", main)


# --- Protocols ---


class Echo(asyncio.Protocol):
    """Answers, and takes note of all that it is told."""

    def __init__(self):
        self.told = []
        self.frames = []
        self.transport = None

    def connection_made(self, transport):
        self.told.append("made")
        self.transport = transport

    def data_received(self, data):
        frame = sys._getframe()  # noqa: SLF001
        while frame is not None:
            self.frames.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back
        self.told.append(bytes(data))
        self.transport.write(data)

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, error):
        self.told.append(f"lost {type(error).__name__}")


class BufferedEcho(asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    __init__, connection_made, eof_received = Echo.__init__, Echo.connection_made, Echo.eof_received
    connection_lost, received = Echo.connection_lost, Echo.data_received

    def get_buffer(self, _):
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, n):
        self.received(self.buffer[:n])


@EACH_LOOP
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("protocol", [Echo, BufferedEcho])
def test_a_protocol_has_its_transport_for_itself(kind, protocol, tls):
    """It is what the transport has, all that happens reaches it, and no code of ours runs when data comes."""
    made = []

    async def main():
        options = {"ssl": server_tls()} if tls else {}
        server = await aio.create_server(lambda: made.append(protocol()) or made[-1], "127.0.0.1", 0, **options)
        reader, writer = await asyncio.open_connection(*address_of(server), ssl=client_tls() if tls else None)
        for word in (b"one", b"two"):
            writer.write(word)
            assert await reader.readexactly(3) == word
        [echo] = made
        present = echo.transport.get_protocol()
        assert (present if KERNEL_KEEPS_BOOKS else real_protocol(present)) is echo
        assert type(echo) is protocol
        assert connection_of(echo.transport).state == "open"
        assert connection_of(echo) is connection_of(echo.transport)
        await hang_up(writer)
        await until(lambda: "lost NoneType" in echo.told)
        assert echo.told == ["made", b"one", b"two", "eof", "lost NoneType"]
        if KERNEL_KEEPS_BOOKS:
            assert [name for name in echo.frames if name.partition(".")[0] == "sockguard"] == []
        server.close()

    run(kind, main)


class Sink:
    """Takes what is written, and does nothing with it."""

    def write(self, data):
        pass


@EACH_LOOP
@pytest.mark.parametrize("protocol", [Echo, BufferedEcho])
def test_a_client_gets_its_own_protocol(kind, protocol):
    """create_connection() gives what the factory made, and the connection is known as one of ours."""

    async def main():
        server = await aio.create_server(Echo, "127.0.0.1", 0)
        transport, mine = await aio.create_connection(protocol, *address_of(server))
        assert (type(mine), real_protocol(transport.get_protocol())) == (protocol, mine)
        mine.transport = Sink()  # it would echo what was echoed
        transport.write(b"hi")
        await until(lambda: b"hi" in mine.told)
        await until(lambda: connection_of(transport).bytes_received == 2)
        transport.close()
        await until(lambda: mine.told == ["made", b"hi", "lost NoneType"])
        server.close()

    run(kind, main)


@EACH_LOOP
def test_a_protocol_may_give_its_place_to_another(kind):
    """In connection_made() already: the other one has it then."""
    second = Echo()

    class First(asyncio.Protocol):
        def connection_made(self, transport):
            transport.set_protocol(second)
            second.connection_made(transport)

    async def main():
        server = await aio.create_server(First, "127.0.0.1", 0)
        reader, writer = await connect(server)
        writer.write(b"hi")
        assert await reader.readexactly(2) == b"hi"
        assert real_protocol(second.transport.get_protocol()) is second
        await hang_up(writer)
        server.close()

    run(kind, main)


class Fails(Echo):
    """Fails when it gets its transport."""

    def connection_made(self, transport):
        super().connection_made(transport)
        fail()


def failing(create_server, create_connection, kind, factory):
    """Tells what comes of a protocol factory that makes trouble: what is raised, what is reported, what is told."""
    errors, made, calls = [], [], []

    def make():
        calls.append(1)
        made.append(factory())
        return made[-1]

    async def main():
        server = await create_server(make, "127.0.0.1", 0)
        _, writer = await connect(server)
        await until(lambda: calls)
        await asyncio.sleep(0.05)
        raised = None
        try:
            transport, _ = await create_connection(make, *address_of(server))
            transport.close()
        except Exception as error:  # noqa: BLE001 - whatever it is
            raised = type(error)
        await asyncio.sleep(0.05)
        await hang_up(writer)
        await asyncio.sleep(0.05)
        server.close()
        return raised, [tuple(getattr(protocol, "told", ())) for protocol in made]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # some are left open
        raised = run(kind, main, errors)
    return raised, [type(context.get("exception")) for context in errors]


@EACH_LOOP
@pytest.mark.allow_socket_leaks("where a factory fails, the event loop leaves connections open, guarded or not")
@pytest.mark.parametrize("factory", [fail, lambda: None, lambda: 7], ids=["factory", "None", "7"])
def test_a_factory_that_makes_trouble_makes_the_same(kind, factory):
    """What is raised where, and what the protocol is told afterwards, is as without a guard."""
    skip_where_blind(kind)

    async def plain_server(*args):
        return await asyncio.get_running_loop().create_server(*args)

    async def plain_connection(*args):
        return await asyncio.get_running_loop().create_connection(*args)

    guarded_server = functools.partial(aio.create_server, policy=Policy(fin_timeout=0.4))
    guarded = failing(guarded_server, aio.create_connection, kind, factory)
    assert guarded == failing(plain_server, plain_connection, kind, factory)


@EACH_LOOP
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_protocol_that_cannot_take_its_transport_loses_it(kind, tls):
    """Its connection_made() raises, which the event loop reports: nobody would serve the peer, so that is let go."""
    errors, made = [], []

    async def main():
        options = {"ssl": server_tls()} if tls else {}
        server = await aio.create_server(lambda: made.append(Fails()) or made[-1], "127.0.0.1", 0, **options)
        reader, writer = await asyncio.open_connection(*address_of(server), ssl=client_tls() if tls else None)
        with contextlib.suppress(ConnectionError):  # of TLS both loops make an error of it, and abort
            assert await asyncio.wait_for(reader.read(), 20) == b""
        await until(lambda: made[0].told[1:])
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)
        await hang_up(writer)

    run(kind, main, errors)
    assert LookupError in [type(context.get("exception")) for context in errors]
    assert made[0].told[0] == "made" and made[0].told[1].startswith("lost ")


@EACH_LOOP
def test_a_client_that_cannot_take_its_transport_keeps_it(kind):
    """create_connection() gives it to its caller nevertheless, who owns it."""
    errors, made = [], []

    async def main():
        server = await aio.create_server(lambda: made.append(Echo()) or made[-1], "127.0.0.1", 0)
        transport, _ = await aio.create_connection(Fails, *address_of(server))
        assert not transport.is_closing()
        transport.write(b"hi")
        await until(lambda: made and b"hi" in made[0].told)
        transport.close()
        server.close()

    run(kind, main, errors)
    assert [type(context["exception"]) for context in errors] == [LookupError]


@EACH_LOOP
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_nothing_of_ours_keeps_a_transport_alive(kind, tls):
    """A transport that was closed and forgotten dies, and its protocol too: asyncio tells leaks by that."""
    made = []

    async def main():
        mine, theirs = ({"ssl": client_tls()}, {"ssl": server_tls()}) if tls else ({}, {})
        server = await aio.create_server(lambda: made.append(Echo()) or made[-1], "127.0.0.1", 0, **theirs)
        transport, protocol = await aio.create_connection(Echo, *address_of(server), **mine)
        ref = weakref.ref(protocol)
        transport.close()
        await until(lambda told=protocol.told: "lost NoneType" in told)
        await until(lambda: made and "lost NoneType" in made[0].told)
        del transport, protocol
        made.clear()
        # Some refer to themselves; and the guard's thread may just look at one.
        await until(lambda: gc.collect() >= 0 and ref() is None and known_members() == [])
        server.close()

    run(kind, main)


# --- The guard and the connection ---


@EACH_LOOP
@pytest.mark.slow
def test_each_connection_has_its_own_policy(kind):
    """One server's connections are ended for being idle, those of another are not; the guard has a third policy."""
    skip_where_blind(kind)
    if KERNEL_KEEPS_BOOKS:
        sockguard.install(idle_timeout=LONG, leak_after=None)

    async def wait(reader, _):
        await reader.read()

    async def main():
        short = await aio.start_server(wait, "127.0.0.1", 0, policy=Policy(idle_timeout=0.5, keepalive=None))
        usual = await aio.start_server(wait, "127.0.0.1", 0)
        r1, w1 = await connect(short)
        r2, w2 = await connect(usual)
        assert await asyncio.wait_for(r1.read(), 10) == b""
        assert not r2.at_eof()
        for writer in (w1, w2):
            await hang_up(writer)
        for server in (short, usual):
            server.close()

    run(kind, main)


@EACH_LOOP
def test_a_connection_knows_its_numbers(kind):
    """Policy, state and counts, on both sides; and None for those of one that is closed."""
    skip_where_blind(kind)
    policy, seen = Policy(idle_timeout=LONG), []

    async def handle(reader, writer):
        seen.append(connection_of(writer))
        await reader.readexactly(5)
        seen.append(connection_of(writer).bytes_received)
        await reader.read()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, policy=policy) as server:
            _, writer = await aio.open_connection(*address_of(server))
            writer.write(b"hello")
            await until(lambda: len(seen) == 2)
            assert (seen[0].policy, seen[0].state, seen[1]) == (policy, "open", 5)
            assert connection_of(writer).policy == Policy()
            assert connection_of(writer).bytes_sent == 5
            assert connection_of(writer).ended_by is None
            await hang_up(writer)
            assert connection_of(writer).state == "closed"
            assert connection_of(writer).facts is None
            await until(lambda: seen[0].state == "closed")

    run(kind, main)


@EACH_LOOP
@pytest.mark.skipif(not KERNEL_KEEPS_BOOKS, reason="other records")
def test_where_a_connection_was_opened_is_the_programs_line(kind):
    """Of a server the line that started it, of a client the line that connected; no line of ours or asyncio's."""
    seen = []

    async def handle(reader, _):
        await reader.read()

    async def serve():
        return await aio.start_server(handle, "127.0.0.1", 0)

    async def main():
        async with await serve() as server:
            _, writer = await aio.open_connection(*address_of(server))
            await until(lambda: len([r for r in current_guard().registry.records() if r.terms]) == 2)
            seen.extend(record for record in current_guard().registry.records() if record.terms)
            await hang_up(writer)

    run(kind, main)
    sites = {record.is_server: record.site.frames()[0].partition(" in ")[2] for record in seen}
    assert sites == {True: "serve", False: "main"}


@pytest.mark.slow
@EACH_LOOP
def test_a_deadline_ends_a_request(kind):
    """However many bytes trickle in; the block that waited for them fails with TimeoutError."""
    seen = []

    async def handle(reader, writer):
        try:
            with connection_of(writer).deadline(0.5):
                await reader.readexactly(1000)
        except TimeoutError as error:
            seen.append(error)

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await connect(server)
            while not seen:
                writer.write(b"x")
                await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):  # it wrote on after the end
                assert await asyncio.wait_for(reader.read(), 20) == b""
            await hang_up(writer)

    run(kind, main)


@EACH_LOOP
@pytest.mark.parametrize("policy", ["observe", {"idle_timeout": 5}, 30, True])
def test_what_is_no_policy_is_refused(kind, policy):
    """With value and remedy, before anything is opened."""

    async def main():
        for opening in (
            aio.start_server(lambda *_: None, "127.0.0.1", 0, policy=policy),
            aio.create_server(Echo, "127.0.0.1", 0, policy=policy),
            aio.open_connection("127.0.0.1", 1, policy=policy),
            aio.create_connection(Echo, "127.0.0.1", 1, policy=policy),
            aio.start_unix_server(lambda *_: None, "/nowhere/at/all", policy=policy),
            aio.open_unix_connection("/nowhere/at/all", policy=policy),
        ):
            with pytest.raises(UsageError, match="give one, as in policy="):
                await opening

    run(kind, main)


def test_what_is_not_guarded_has_no_connection():
    """A writer of asyncio's own, and whatever is none at all: the error says what to give."""

    async def main():
        async with await asyncio.start_server(read_on, "127.0.0.1", 0) as server:
            _, writer = await connect(server)
            for thing in (writer, writer.transport, writer.transport.get_protocol(), Echo(), None, 7):
                with pytest.raises(UsageError, match="of no guarded connection: give a writer, transport or protocol"):
                    connection_of(thing)
            await hang_up(writer)

    run("asyncio", main)


@EACH_LOOP
def test_arguments_are_asyncios(kind):
    """Those of the running Python are handed on, and what it does not know it refuses itself."""

    async def main():
        with pytest.raises(TypeError, match="no_such_argument"):
            await aio.start_server(lambda *_: None, "127.0.0.1", 0, no_such_argument=1)
        server = await aio.start_server(lambda *_: None, "127.0.0.1", 0, backlog=7, limit=99, start_serving=False)
        assert not server.is_serving()
        server.close()
        with pytest.raises(OSError, match=r"refused|failed"):
            await aio.open_connection(*unused_address())

    run(kind, main)


def unused_address():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()


# --- TLS ---


@EACH_LOOP
def test_a_handshake_that_fails_makes_no_connection(kind):
    """Neither handler nor guard hear of it, and nothing of ours fails."""

    async def main():
        server = await aio.start_server(lambda *_: fail(), "127.0.0.1", 0, ssl=server_tls())
        reader, writer = await connect(server)
        writer.write(b"this is no handshake\n")
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)
        await hang_up(writer)
        with pytest.raises(ssl.SSLError):
            await aio.open_connection(*address_of(server), ssl=ssl.create_default_context(), server_hostname="other")
        server.close()

    run(kind, main)


@EACH_LOOP
@pytest.mark.slow
def test_a_stream_stays_guarded_below_start_tls(kind):
    """Writer, transport and protocol lead to the same connection as before, on both sides; and its policy holds."""
    skip_where_blind(kind)
    seen, never = [], asyncio.Event()

    async def handle(reader, writer):
        before = connection_of(writer)
        writer.write(await reader.readline())
        await writer.start_tls(server_tls())
        seen.append((before, connection_of(writer), connection_of(writer.transport)))
        writer.write(await reader.readline())
        with contextlib.suppress(asyncio.CancelledError):
            await never.wait()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, policy=Policy(fin_timeout=0.3)) as server:
            reader, writer = await aio.open_connection(*address_of(server))
            before = connection_of(writer)
            writer.write(b"plain\n")
            assert await reader.readline() == b"plain\n"
            await writer.start_tls(client_tls())
            assert connection_of(writer) is before
            assert connection_of(writer.transport) is before
            writer.write(b"secret\n")
            assert await reader.readline() == b"secret\n"
            [(first, second, third)] = seen
            assert first is second is third
            writer.transport.abort()
            await until(lambda: first.state == "closed")

    run(kind, main)


@EACH_LOOP
def test_a_transport_that_another_one_replaced_is_found(kind):
    """loop.start_tls() with another protocol: transport and protocol are new, and the connection is the same."""
    made, replaced = [], []

    class Upgrades(Echo):
        def data_received(self, data):
            self.transport.write(data)
            made.append(self)
            self.task = asyncio.create_task(self.upgrade())

        async def upgrade(self):
            loop = asyncio.get_running_loop()
            replaced.append(await loop.start_tls(self.transport, Echo(), server_tls(), server_side=True))

    async def main():
        server = await aio.create_server(Upgrades, "127.0.0.1", 0)
        reader, writer = await connect(server)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"STARTTLS\n"
        await writer.start_tls(client_tls())
        await made[0].task
        assert connection_of(replaced[0]) is connection_of(made[0])
        await hang_up(writer)
        await until(lambda: connection_of(made[0]).state == "closed")
        server.close()

    run(kind, main)


@EACH_LOOP
def test_a_handler_that_ends_takes_tls_along(kind):
    """The peer gets the farewell of TLS, also where start_tls() has changed the transport."""

    async def handle(reader, writer):
        await writer.start_tls(server_tls())
        writer.write(await reader.readline())

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await connect(server)
            await writer.start_tls(client_tls())
            writer.write(b"hi\n")
            assert await asyncio.wait_for(reader.read(), 20) == b"hi\n"
            await hang_up(writer)

    run(kind, main)


@pytest.mark.slow
@EACH_LOOP
@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_peer_that_does_not_answer_the_farewell_of_tls_is_given_up(kind, ending):
    """Of asyncio itself it would have 30 s; the handler has ended, so `drain_timeout` is enough."""
    writers = []

    async def handle(_, writer):
        writers.append(writer)
        if ending == "raises":
            fail()

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0, ssl=server_tls(), policy=QUICK) as server:
            loop = asyncio.get_running_loop()
            with socket.create_connection(address_of(server)) as sock:
                tls = await loop.run_in_executor(None, client_tls().wrap_socket, sock)
                await until(lambda: writers)
                await until(lambda: connection_of(writers[0]).state == "closed", patience=8)
                await until(lambda: state_of(tls) != ESTABLISHED, patience=8)  # for the peer, too
                tls.close()

    run(kind, main, [])


# --- Unix sockets ---


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A short path: those of Unix sockets have 107 bytes at most."""
    monkeypatch.chdir(tmp_path)
    return "s"


@EACH_LOOP
def test_unix_sockets_work_as_ever(kind, path):
    """Bytes pass in both directions, the handler's end is the writer's, and a connection is known."""

    async def handle(reader, writer):
        for _ in range(2):
            writer.writelines([await reader.readline(), b"!\n"])
        assert connection_of(writer).state == "open"

    async def main():
        async with await aio.start_unix_server(handle, path):
            reader, writer = await aio.open_unix_connection(path)
            for word in (b"one\n", b"two\n"):
                writer.write(word)
                assert await reader.readline() == word
                assert await reader.readline() == b"!\n"
            assert connection_of(writer).bytes_received == 12
            assert await asyncio.wait_for(reader.read(), 20) == b""
            await hang_up(writer)

    run(kind, main)


@pytest.mark.slow
def test_an_idle_unix_connection_is_ended(path):
    """By our own stamps, of bytes in both directions: one that only sends is not idle."""
    lost, gap = [], 0.0

    async def push(reader, writer):
        nonlocal gap
        word, last = await reader.readline(), time.monotonic()
        while word == b"push\n" and not lost:
            writer.write(b"x")
            await asyncio.sleep(0.05)
            last, gap = time.monotonic(), max(gap, time.monotonic() - last)
        lost.append(await reader.read())

    async def main():
        policy = Policy(idle_timeout=1.6)
        async with await aio.start_unix_server(push, path, policy=policy):
            pushed, pusher = await asyncio.open_unix_connection(path)
            idle, writer = await asyncio.open_unix_connection(path)
            pusher.write(b"push\n")
            writer.write(b"wait\n")
            assert await asyncio.wait_for(idle.read(), 10) == b""
            assert gap > 1.0 or not pushed.at_eof()  # else it was us who got no processor for so long
            for w in (pusher, writer):
                await hang_up(w)

    run("asyncio", main)


@pytest.mark.slow
def test_on_uvloop_a_unix_connection_is_ended_for_what_it_receives_only(path):
    """What is sent cannot be counted there, so nothing is ended for being idle; for being old, or late, it is."""

    async def push(reader, writer):
        for _ in range(20 if await reader.readline() else 0):
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async def main():
        async with await aio.start_unix_server(push, path, policy=Policy(idle_timeout=0.3)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"push\n")
            assert await asyncio.wait_for(reader.read(), 10) == b"x" * 20
            await hang_up(writer)

        async with await aio.start_unix_server(push, path, policy=Policy(first_byte_timeout=0.3)):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            await hang_up(writer)

    run("uvloop", main)


# --- What we rely on ---


@EACH_LOOP
def test_asyncio_has_the_names_that_we_use(kind):
    """Private ones: where a handler's task and the writer's transport are found, and that which is done at the end."""
    seen = []

    async def handle(_, writer):
        protocol = writer.transport.get_protocol()
        seen.append((protocol._task is asyncio.current_task(), protocol._transport is writer.transport))  # noqa: SLF001
        await writer.start_tls(server_tls())
        seen.append((protocol._transport is writer.transport, protocol._closed.done()))  # noqa: SLF001
        if kind == "asyncio":
            assert protocol._transport.get_protocol() is protocol  # noqa: SLF001
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        seen.append((protocol._transport, protocol._closed.done()))  # noqa: SLF001

    async def main():
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            reader, writer = await connect(server)
            await writer.start_tls(client_tls())
            await reader.read()
            await hang_up(writer)
            await until(lambda: len(seen) == 3)

    run(kind, main)
    assert seen == [(True, True), (True, False), (None, True)]


def test_a_reset_by_the_peer_is_the_programs_to_see():
    """The error reaches the handler as it would without a guard."""
    seen = []

    async def handle(reader, _):
        try:
            await reader.readexactly(10)
        except ConnectionResetError as error:
            seen.append(error)

    async def main():
        async with await aio.start_server(handle, "127.0.0.1", 0) as server:
            client = socket.create_connection(address_of(server))
            await asyncio.sleep(0.05)
            reset(client)
            await until(lambda: seen)

    run("asyncio", main)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_closed_server_can_be_closed_again():
    """As asyncio's can; nothing is begun twice."""

    async def main():
        server = await aio.start_server(lambda *_: None, "127.0.0.1", 0)
        server.close()
        server.close()
        await server.wait_closed()

    for kind in ("asyncio", "uvloop"):
        run(kind, main)
