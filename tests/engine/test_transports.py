"""Whose transport a descriptor is, and how its loop is asked to let go of it; pinned for each Python."""

import asyncio
import contextlib
import gc
import socket
import threading
import types

import pytest

from interpreters import EACH_PYTHON, run_program
from loopback import connect
from sockguard._engine.record import LoopRef, Record, stranger
from sockguard._engine.transports import ask_to_abort, find_transport

PINS = """
import asyncio, socket

async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    fd = writer.get_extra_info("socket").fileno()
    print(loop._transports[fd] is writer.transport)
    from sockguard._engine.record import stranger
    from sockguard._engine.transports import find_transport
    print(find_transport(stranger(fd, None, 0.0, is_server=False), loop) is writer.transport)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.01)
    print(find_transport(stranger(fd, None, 0.0, is_server=False), loop))
    server.close()

asyncio.run(main())
"""


@EACH_PYTHON
def test_asyncio_keeps_its_transports_by_descriptor(python):
    """`loop._transports` is a private name of asyncio: here it is noticed if it goes."""
    assert run_program(python, PINS) == ["True", "True", "None"]


class Transport:
    """A transport as asyncio and uvloop have them, as far as is needed."""

    def __init__(self, sock):
        self.sock, self.n_aborts = sock, 0

    def get_extra_info(self, _):
        return self.sock

    def abort(self):
        self.n_aborts += 1


class Loop:
    """A loop whose callbacks are run by hand."""

    def __init__(self, transports=()):
        self._transports = dict(transports)
        self.calls = []

    def call_soon_threadsafe(self, callback):
        self.calls.append(callback)

    def run(self):
        while self.calls:
            self.calls.pop(0)()


@pytest.fixture
def sock():
    with connect() as c:
        yield c.server


def record_of(owner, sock, loop=None) -> Record:
    ref = LoopRef(loop, threading.get_ident()) if loop is not None else None
    return Record(owner, None, sock.fileno(), None, 0.0, True, ref, None)


def test_a_transport_that_was_adopted_is_the_owner_while_it_has_the_descriptor(sock):
    """That of uvloop, which no table tells of."""
    transport = Transport(sock)
    record = record_of(transport, sock)
    assert find_transport(record, Loop()) is transport
    transport.sock = None
    assert find_transport(record, Loop()) is None


def test_a_table_that_is_out_of_date_is_not_believed(sock):
    """The entry of a number whose transport has another descriptor, or none, is no owner of ours."""
    with socket.socket() as other:
        for stale in (other, None):
            assert find_transport(record_of(sock, sock), Loop({sock.fileno(): Transport(stale)})) is None


def test_a_loop_without_a_table_has_no_transport(sock):
    """Loops of other makes."""
    assert find_transport(record_of(sock, sock), types.SimpleNamespace()) is None


def test_it_is_aborted_on_the_loop_and_not_here(sock):
    """The call returns before anything has happened."""
    transport = Transport(sock)
    loop = Loop({sock.fileno(): transport})
    asked, missed = [], []
    record = record_of(sock, sock, loop)
    assert ask_to_abort(record, lambda r: not asked.append(r), missed.append)
    assert transport.n_aborts == 0
    loop.run()
    assert (transport.n_aborts, asked, missed) == (1, [record], [])


def test_what_is_no_longer_due_is_spared(sock):
    """It has moved, or is another connection by now: that is asked on the loop's thread, right before."""
    transport = Transport(sock)
    loop, missed = Loop({sock.fileno(): transport}), []
    assert ask_to_abort(record_of(sock, sock, loop), lambda _: False, missed.append)
    loop.run()
    assert (transport.n_aborts, missed) == (0, [])


def test_a_connection_without_a_transport_is_told(sock):
    """A plain socket that is used on a loop: nobody there can be asked, so another step is needed."""
    loop, missed = Loop(), []
    record = record_of(sock, sock, loop)
    assert ask_to_abort(record, lambda _: True, missed.append)
    loop.run()
    assert missed == [record]


def test_a_loop_that_is_closed_or_gone_cannot_be_asked(sock):
    """Nor one that never was."""
    loop = asyncio.new_event_loop()
    record = record_of(sock, sock, loop)
    loop.close()
    assert not ask_to_abort(record, lambda _: True, pytest.fail)
    del loop
    gc.collect()
    assert not ask_to_abort(record, lambda _: True, pytest.fail)
    assert not ask_to_abort(stranger(sock.fileno(), None, 0.0, is_server=True), lambda _: True, pytest.fail)


def test_a_real_transport_lets_go_of_its_descriptor():
    """End to end: asked from another thread, the loop closes it and tells the protocol."""

    class Lost(asyncio.Protocol):
        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()

        def connection_lost(self, error):
            self.lost.set_result(error)

    async def main():
        loop = asyncio.get_running_loop()
        with connect() as c:
            transport, protocol = await loop.create_connection(Lost, sock=c.client)
            record = record_of(c.client, c.client, loop)
            thread = threading.Thread(target=ask_to_abort, args=(record, lambda _: True, pytest.fail))
            thread.start()
            assert await asyncio.wait_for(protocol.lost, 10) is None
            thread.join()
            assert (transport.is_closing(), c.client.fileno()) == (True, -1)
            with contextlib.suppress(OSError):
                assert c.server.recv(1) == b""

    asyncio.run(main())
