"""uvloop accepts and connects in C: its transports are adopted when their protocols get them, and ended by abort()."""

import gc
import sys
import types
import weakref

import pytest

from guarded import driven
from interpreters import run_program
from sockguard.adapters import uvloop as adapter
from sockguard.adapters.wrapping import Wrappings

TOOLS = """
import asyncio, socket, sys, uvloop
import sockguard

def records():
    return sockguard.install().registry.records()

async def until(predicate, seconds=20):
    for _ in range(int(seconds / 0.01)):
        if predicate():
            return True
        await asyncio.sleep(0.01)
    return False

def failures():
    return [e.message for _, e in sockguard._process.running.teller.recent if e.name == "guard_failed"]
"""


def run(program: str) -> list[str]:
    """Runs a program with uvloop and these tools; it must not warn."""
    pytest.importorskip("uvloop", reason="needs uvloop: nothing of it was tested")
    return run_program(sys.executable, TOOLS + program, timeout=60)


SIDES = """
sockguard.install(leak_after=None)

async def main():
    kept = []
    async def handle(reader, writer):
        kept.append(writer)
        await reader.read()
        writer.close()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await until(lambda: len(records()) == 2 and all(r.cookie for r in records()))
    fds = {w.get_extra_info("socket").fileno(): w is kept[0] for w in (writer, *kept)}
    print({r.fd: r.is_server for r in records()} == fds)
    [client] = [r for r in records() if not r.is_server]
    print(client.site.frames()[0].endswith(" in main"), client.loop.ref() is asyncio.get_running_loop())
    writer.close()
    server.close()
    await writer.wait_closed()
    print(failures())

uvloop.run(main())
"""


def test_both_sides_of_streams_are_adopted():
    """One protocol class serves both sides; which it was is told apart, and of a client, who wanted it."""
    assert run(SIDES) == ["True", "True True", "[]"]


LEAKS = """
sockguard.install(fin_timeout=0.5, leak_after=None)
kept = []

class Keeps(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        kept.append(self)
        transport.pause_reading()  # so that the loop does not see the hang-up
    def connection_lost(self, error):
        self.transport = None

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Keeps, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    await until(lambda: kept)
    fd = kept[0].transport.get_extra_info("socket").fileno()
    client.close()
    print(await until(lambda: kept[0].transport is None))
    await asyncio.sleep(0)
    print(await until(lambda: fd not in {r.fd for r in records()}), failures())
    server.close()

uvloop.run(main())
"""


@pytest.mark.slow
def test_a_leak_is_ended_by_abort():
    """Its protocol is told, and the descriptor is free: that is only in the loop's own power."""
    assert run(LEAKS) == ["True", "True []"]


ACCEPTED = """
sockguard.install(fin_timeout=0.5, leak_after=None)

class Keeps(asyncio.Protocol):
    transport = None
    def connection_made(self, transport):
        self.transport = transport
    def eof_received(self):
        return True  # keep the transport open
    def connection_lost(self, error):
        self.transport = None

async def main():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = socket.create_connection(listener.getsockname())
        accepted, _ = await loop.sock_accept(listener)
    assert await until(lambda: all(r.cookie for r in records()))  # the guard has taken the socket object for its owner
    transport, protocol = await loop.connect_accepted_socket(Keeps, accepted)
    fd = transport.get_extra_info("socket").fileno()
    await until(lambda: any(r() is transport for r in records()))
    [record] = [r for r in records() if r.fd == fd]
    print(record() is transport, record.is_server, record.site.frames()[0].endswith(" in main"))
    client.close()
    print(await until(lambda: protocol.transport is None), accepted.fileno(), failures())

uvloop.run(main())
"""


@pytest.mark.slow
def test_an_accepted_socket_that_is_handed_over_is_ended_by_its_transport():
    """accept() has announced the socket; from connect_accepted_socket() on, only the transport can free it."""
    assert run(ACCEPTED) == ["True True True", "True -1 []"]


BLOCKED = """
import threading
sockguard.install(fin_timeout=0.5, leak_after=None)
started = threading.Event()

class Blocks(asyncio.Protocol):
    def data_received(self, data):
        started.set()
        gate.wait(30)

gate = threading.Event()

def client(address):
    with socket.create_connection(address) as sock:
        sock.sendall(b"x")
        started.wait(10)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(20)
        print(sock.recv(1))
    gate.set()

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Blocks, "127.0.0.1", 0)
    thread = threading.Thread(target=client, args=(server.sockets[0].getsockname(),))
    thread.start()
    await until(lambda: not thread.is_alive())
    server.close()
    print(failures())

uvloop.run(main())
"""


@pytest.mark.slow
def test_a_blocked_loop_does_not_keep_the_connection():
    """The client hears the end while the loop stands still."""
    assert run(BLOCKED) == ["b''", "[]"]


# --- With a stand-in for uvloop ---


class Loop:
    """What the adapter wants of a loop of uvloop."""

    def create_server(self, protocol_factory, *rest):
        return protocol_factory()

    def create_connection(self, protocol_factory, *rest):
        return protocol_factory()

    def connect_accepted_socket(self, protocol_factory, sock, *rest):
        return protocol_factory()

    def is_closed(self):
        return False


class Transport:
    pass


@pytest.fixture
def loop(monkeypatch):
    """The adapter over a stand-in of the name, with a guard that is driven by hand."""
    monkeypatch.setitem(sys.modules, "uvloop", module := types.ModuleType("uvloop"))
    module.Loop = type("Loop", (Loop,), {"__module__": "uvloop"})
    wrappings = Wrappings()
    with driven() as d:
        d.guard.wrap = wrappings.wrap
        for hook in adapter.hooks(d.guard):
            wrappings.add(hook)
        made = module.Loop()
        made.driven = d
        monkeypatch.setattr(adapter, "running_loop", lambda: made)
        yield made
        wrappings.undo()


def opened(loop) -> list[tuple[object, bool]]:
    """What was announced: the transport, and whether it was accepted."""
    return [(ref(), is_server) for ref, _, is_server, *_ in loop.driven.guard.registry.opened]


class Protocol:
    """A protocol that notes what it gets."""

    def __init__(self):
        self.got = []

    def connection_made(self, transport):
        self.got.append(transport)


METHODS = [("create_server", True), ("create_connection", False), ("connect_accepted_socket", True)]


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(("method", "is_server"), METHODS)
def test_a_factory_is_passed_on(loop, by_name, method, is_server):
    """By position or by name; the protocol is the program's own, and gets its transport."""

    class Mine(Protocol):
        pass

    create, rest = getattr(loop, method), {"sock": None} if method == "connect_accepted_socket" else {}
    protocol = create(protocol_factory=Mine, **rest) if by_name else create(Mine, **rest)
    transport = Transport()
    protocol.connection_made(transport)
    assert (type(protocol), protocol.got) == (Mine, [transport])
    assert opened(loop) == [(transport, is_server)]


def test_a_call_without_a_factory_is_the_originals_to_refuse(loop):
    """Its TypeError is raised, and nothing of ours."""
    with pytest.raises(TypeError, match="protocol_factory"):
        loop.create_server()


def test_one_class_may_serve_both_sides(loop):
    """Which it was is known by the protocol, also if it is asked for again and again."""
    for _ in range(3):
        for method, is_server in (("create_server", True), ("create_connection", False)):
            protocol, transport = getattr(loop, method)(Protocol), Transport()
            protocol.connection_made(transport)
            assert opened(loop)[-1] == (transport, is_server)


def test_nothing_is_kept_of_protocols_that_are_gone(loop, monkeypatch):
    """Clients come and go by the million; also if two of them had the same address in memory."""
    adopter = adapter._Adopter(loop.driven.guard)  # noqa: SLF001
    create = adopter.create_connection
    for _ in range(100):
        create(lambda factory: factory(), loop, (Protocol,), {})
    kept = [create(lambda factory: factory(), loop, (Protocol,), {})]
    assert list(adopter._awaited) == [id(kept[0])]  # noqa: SLF001
    create(lambda factory: factory(), loop, (lambda: kept[0],), {})  # the same once more
    assert list(adopter._awaited) == [id(kept[0])]  # noqa: SLF001
    kept.clear()
    assert adopter._awaited == {}  # noqa: SLF001


def test_another_loop_is_none_of_ours(loop, monkeypatch):
    """The same protocol class on asyncio: there accept() has announced the connection already."""
    protocol = loop.create_server(Protocol)
    for other in (None, object()):
        monkeypatch.setattr(adapter, "running_loop", lambda other=other: other)
        protocol.connection_made(Transport())
    assert opened(loop) == []
    assert len(protocol.got) == 2


class Frozen(type):
    """A class of classes that take no attribute."""

    def __setattr__(cls, name, value):
        raise AttributeError("frozen")


class Stiff(Protocol, metaclass=Frozen):
    pass


def test_a_class_that_cannot_be_wrapped_works_as_ever(loop):
    """It is told as a failure of ours, once; the factory gives its protocol."""
    for _ in range(3):
        assert type(loop.create_server(Stiff)) is Stiff
    assert len(loop.driven.told("guard_failed")) == 1
    loop.driven.events.clear()


@pytest.mark.parametrize("protocol", [None, 7])
def test_a_factory_that_gives_no_protocol_is_the_programs_mistake(loop, protocol):
    """Uvloop says so in its own words."""
    assert loop.create_server(lambda: protocol) is protocol
    loop.driven.events.clear()


def test_classes_beyond_a_limit_are_left_alone(loop, monkeypatch):
    """Of those that live at once; to wrap them takes its time."""
    monkeypatch.setattr(adapter, "MAX_CLASSES", 2)
    kinds = [type("Mine", (Protocol,), {}) for _ in range(5)]
    for kind in kinds:
        loop.create_server(kind).connection_made(Transport())
    assert len(opened(loop)) == 2


def test_a_class_that_the_program_drops_is_not_kept(loop, monkeypatch):
    """A program that makes one for each connection must not grow for it, and each of them is adopted."""
    monkeypatch.setattr(adapter, "MAX_CLASSES", 2)

    def dropped(method):
        class Mine(Protocol):
            def connection_made(self, transport):
                super().connection_made(transport)

        transport = Transport()
        getattr(loop, method)(Mine).connection_made(transport)
        assert opened(loop)[-1][0] is transport
        return weakref.ref(Mine)

    for method in ("create_server", "create_connection") * 3:
        ref = dropped(method)
        gc.collect()
        assert ref() is None
