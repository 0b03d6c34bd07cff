"""What the owner of a connection does: the handler of a stream, a protocol, a thread; on each Python version."""

import asyncio
import inspect
import socket
import threading
from asyncio import sslproto
from asyncio.streams import StreamReaderProtocol

from sockguard._engine.owners import describe_owner, held_by
from sockguard._engine.referrers import held_by as the_same


def line_of(text: str) -> str:
    """Takes file and line out: "handle() waits at FILE:12 in fetch" is "handle() waits in fetch"."""
    before, _, after = text.rpartition(" at ")
    return f"{before} {after.partition(' ')[2]}"


class Server:
    """A server of asyncio whose one client has connected; ask about it inside of `with`."""

    def __init__(self, callback, make=asyncio.start_server):
        self.callback, self.make = callback, make
        self.transports = []

    async def describe(self, **owner):
        server = await self.make(self.callback, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address):
            loop = asyncio.get_running_loop()
            while len(loop._transports) < 1:  # noqa: ASYNC110, SLF001 - accepted by the loop, at its own time
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            (transport,) = loop._transports.values()  # noqa: SLF001
            told = describe_owner(transport=transport, **owner)
            transport.abort()
            await asyncio.sleep(0)
        server.close()
        return told


def describe(callback, **owner) -> str:
    return asyncio.run(Server(callback).describe(**owner))


async def forever():
    await asyncio.get_running_loop().create_future()


def test_handler_is_named_with_the_line_where_it_waits():
    """The innermost line of the application, not asyncio's own below it."""

    async def fetch():
        await asyncio.Event().wait()

    async def handle(reader, writer):
        try:
            await fetch()
        except asyncio.CancelledError:
            writer.close()

    told = describe(handle)
    assert line_of(told) == "handle() waits in fetch"
    assert "test_owners.py:" in told


def test_handler_that_waits_for_a_generator_is_named():
    """Awaitables of the old kind have frames of another name."""

    class Old:
        def __await__(self):
            yield from asyncio.get_running_loop().create_future().__await__()

    async def handle(reader, writer):
        try:
            await Old()
        except asyncio.CancelledError:
            writer.close()

    assert line_of(describe(handle)) == "handle() waits in __await__"


def test_handler_that_has_ended_is_named():
    """It returned, and did not close."""
    kept = []

    async def handle(reader, writer):
        kept.append(writer)

    assert describe(handle) == "handle() has ended"


def test_handler_that_is_no_coroutine_is_named():
    """Allowed by asyncio: a plain function, which has ended by now."""
    kept = []
    assert describe(lambda *streams: kept.append(streams)) == "<lambda>() has ended"


def test_private_names_of_asyncio_are_still_there():
    """What this module goes by: the task among the attributes, and the callback."""

    async def ask():
        protocol = StreamReaderProtocol(asyncio.StreamReader(), print)
        return {"_task", "_client_connected_cb"} <= vars(protocol).keys()

    assert asyncio.run(ask())
    assert "_app_protocol" in inspect.getsource(sslproto.SSLProtocol)


def test_protocol_is_named():
    """Of a server without streams the class of the protocol says whose it is."""

    class Echo(asyncio.Protocol):
        pass

    async def make(callback, *address):
        return await asyncio.get_running_loop().create_server(callback, *address)

    told = asyncio.run(Server(Echo, make).describe())
    assert told == f"protocol {__name__}.Echo"


def test_task_of_any_protocol_is_found():
    """Others, such as aiohttp, keep the task of the handler under names of their own, in slots even."""

    class Web(asyncio.Protocol):
        __slots__ = ("handler",)

        def connection_made(self, transport):
            self.handler = asyncio.get_running_loop().create_task(forever())

        def connection_lost(self, reason):
            self.handler.cancel()

    async def make(callback, *address):
        return await asyncio.get_running_loop().create_server(callback, *address)

    assert line_of(asyncio.run(Server(Web, make).describe())) == "forever() waits in forever"


class Transport:
    """A transport with whatever protocol."""

    def __init__(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol


def test_tls_is_seen_through():
    """TLS of asyncio is a protocol between the transport and the one of the application."""

    class Tls:
        _app_protocol = object()

    assert describe_owner(transport=Transport(Tls())) == "protocol builtins.object"


def test_stream_of_a_client_tells_nothing():
    """Who reads from it is unknown; its thread is named if that is known."""

    async def ask(**owner):
        return describe_owner(transport=Transport(StreamReaderProtocol(asyncio.StreamReader())), **owner)

    assert asyncio.run(ask()) is None
    assert asyncio.run(ask(thread_id=threading.get_ident())).startswith("thread MainThread is at ")


def test_task_without_a_frame_is_named_without_a_line():
    """Its coroutine may be of C, or be over by the time that it is looked at."""

    class Holder:
        pass

    async def ask():
        task = asyncio.get_running_loop().create_task(forever())
        await asyncio.sleep(0)
        coroutine = task.get_coro()
        protocol = Holder()
        protocol.task = task
        coroutine.close()
        told = describe_owner(transport=Transport(protocol))
        task.cancel()
        return told

    assert asyncio.run(ask()) == "forever() waits"


def test_transport_that_fails_is_borne():
    """Whatever a foreign transport does, there is an answer."""
    assert describe_owner(transport=object()) is None


def test_thread_that_works_with_a_socket_is_named():
    """Whichever thread has accepted it, the one that has it in a local variable owns it now."""
    started, end = threading.Event(), threading.Event()

    def serve(conn):
        started.set()
        end.wait()

    one, two = socket.socketpair()
    thread = threading.Thread(target=serve, args=(two,), name="worker")
    with one:
        thread.start()
        two = [two]
        started.wait()
        told = ask_by_socket(two)
        end.set()
        thread.join()
        two.pop().close()
    assert line_of(told) == "thread worker is in serve"


def ask_by_socket(sockets):
    return describe_owner(sock=sockets[0], thread_id=threading.get_ident())


def test_socket_that_nobody_works_with_is_that_of_its_opener():
    """The thread that opened it is the next best."""
    assert line_of(describe_owner(sock=object(), thread_id=threading.get_ident())).startswith("thread MainThread is ")
    assert describe_owner(sock=object()) is None


def test_thread_that_is_gone_or_unknown():
    """A thread that has ended tells nothing; one that Python has not started has only a number."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    assert describe_owner(thread_id=thread.ident) is None


def test_thread_without_a_name(monkeypatch):
    """Threads that were made by other means are known by their number."""
    monkeypatch.setattr(threading, "_active", {})
    ident = threading.get_ident()
    assert describe_owner(thread_id=ident).startswith(f"thread {ident} is at ")


def test_both_questions_are_asked_here():
    """Who needs one needs the other."""
    assert held_by is the_same


def test_long_chain_of_awaits_is_followed_so_far():
    """A recursion a hundred calls deep is told by one of its lines."""

    class Holder:
        pass

    async def nest(n):
        await (nest(n - 1) if n else forever())

    async def ask():
        holder = Holder()
        holder.task = asyncio.get_running_loop().create_task(nest(100))
        await asyncio.sleep(0)
        told = describe_owner(transport=Transport(holder))
        holder.task.cancel()
        return told

    assert line_of(asyncio.run(ask())) == "nest() waits in nest"
