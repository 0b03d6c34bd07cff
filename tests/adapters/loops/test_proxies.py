"""A protocol between transport and program: what is counted, what is taken out, and that nobody else notices."""

import asyncio

import pytest

from sockguard._core.books import Books
from sockguard._core.heartbeat import Heart
from sockguard._core.policy import Heartbeat
from sockguard.adapters.loops.proxies import proxy_for, real_protocol, stamp_sends

HEARTBEAT = Heartbeat(b"PING\n", every=10, timeout=5, expect=b"PONG\n")


class Plain(asyncio.Protocol):
    """Takes note of all that it is told."""

    def __init__(self):
        self.told = []
        self.mood = "good"

    def data_received(self, data):
        self.told.append(data)

    def eof_received(self):
        self.told.append("eof")
        return True

    def connection_lost(self, error):
        self.told.append(error)


class Buffered(asyncio.BufferedProtocol):
    """The same with a buffer of its own, of three bytes."""

    __init__, eof_received, connection_lost = Plain.__init__, Plain.eof_received, Plain.connection_lost

    def get_buffer(self, _):
        self.buffer = bytearray(3)
        return self.buffer

    def buffer_updated(self, n):
        self.told.append(bytes(self.buffer[:n]))


def asked_heart(expect=b"PONG\n"):
    """Makes a heart that has asked its question and waits for the answer."""
    heart = Heart(Heartbeat(b"PING\n", every=10, timeout=5, expect=expect), 0.0)
    assert heart.due(11.0, is_excused=False)
    heart.sent(11.0)
    return heart


def receive(proxy, data):
    """Does what a transport does with bytes that have come."""
    if not isinstance(proxy, asyncio.BufferedProtocol):
        proxy.data_received(data)
        return
    while data:
        buffer = proxy.get_buffer(-1)
        n = min(len(buffer), len(data))
        buffer[:n] = data[:n]
        proxy.buffer_updated(n)
        data = data[n:]


@pytest.mark.parametrize("kind", [Plain, Buffered])
def test_without_need_there_is_no_proxy(kind):
    """The kernel keeps the books, and no answer is expected: the protocol itself is set."""
    real = kind()
    assert proxy_for(real, None, None) is real
    assert proxy_for(real, None, Heart(Heartbeat(b":\n", every=10), 0.0)) is real
    assert real_protocol(real) is real


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize("has_heart", [False, True])
def test_a_proxy_passes_for_its_protocol(kind, has_heart):
    """By class and attributes; and all that happens reaches it."""
    real = kind()
    proxy = proxy_for(real, Books(0.0), Heart(HEARTBEAT, 0.0) if has_heart else None)
    assert isinstance(proxy, kind)
    assert isinstance(proxy, asyncio.BufferedProtocol) == (kind is Buffered)
    assert (proxy.mood, real_protocol(proxy)) == ("good", real)
    receive(proxy, b"all of it")
    assert proxy.eof_received() is True
    proxy.connection_lost(None)
    received = b"".join(piece for piece in real.told if isinstance(piece, bytes))
    assert (received, real.told[-2:]) == (b"all of it", ["eof", None])


@pytest.mark.parametrize("kind", [Plain, Buffered])
def test_bytes_are_counted(kind):
    """Those that have come, when; and the end."""
    books = Books(0.0)
    proxy = proxy_for(kind(), books, None)
    receive(proxy, b"12345")
    assert (books.received_bytes, books.received_at > 0, books.eof_at) == (5, True, None)
    proxy.eof_received()
    assert books.eof_at is not None
    assert books.failed_at is None
    proxy.connection_lost(ConnectionResetError())
    assert books.failed_at is not None


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize("pieces", [[b"one\nPONG\ntwo"], [b"one\nPO", b"NG\ntwo"], [b"one\n", b"PONG\n", b"two"]])
def test_an_answer_is_taken_out(kind, pieces):
    """However the stream was cut."""
    real, heart = kind(), asked_heart()
    proxy = proxy_for(real, None, heart)
    for piece in pieces:
        receive(proxy, piece)
    assert (b"".join(real.told), heart.n_answered) == (b"one\ntwo", 1)


@pytest.mark.parametrize("kind", [Plain, Buffered])
def test_an_answer_is_not_counted(kind):
    """Nor is it activity: what is counted is what is handed on, also when that was held back."""
    books = Books(0.0)
    proxy = proxy_for(kind(), books, asked_heart())
    receive(proxy, b"PONG\n")
    assert (books.received_bytes, books.last_update) == (0, 0.0)
    receive(proxy, b"one\n")
    assert books.received_bytes == 4
    proxy.eof_received()
    held = Books(0.0)
    proxy = proxy_for(kind(), held, asked_heart())
    receive(proxy, b"PON")
    assert held.received_bytes == 0
    proxy.eof_received()
    assert held.received_bytes == 3


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize(("error", "is_given"), [("eof", True), (ConnectionResetError(), True), (None, False)])
def test_what_was_held_back_is_given_at_the_end(kind, error, is_given):
    """Of a connection that the peer has ended. Who has closed it himself expects no more bytes."""
    real = kind()
    proxy = proxy_for(real, None, asked_heart())
    receive(proxy, b"PON")
    assert real.told == []
    if error == "eof":
        proxy.eof_received()
    else:
        proxy.connection_lost(error)
    assert b"".join(piece for piece in real.told if isinstance(piece, bytes)) == b"PON" * is_given
    assert real.told[-1] == error


def test_an_empty_buffer_is_the_protocols_mistake():
    """In the words of asyncio, which then ends the connection."""
    real = Buffered()
    real.get_buffer = lambda _: bytearray()
    with pytest.raises(RuntimeError, match="returned an empty buffer"):
        receive(proxy_for(real, None, asked_heart()), b"x")


class Transport(asyncio.Transport):
    """Takes note of what is written."""

    def __init__(self):
        self.written = []
        self.protocol = None

    def write(self, data):
        self.written.append(bytes(data))

    def writelines(self, pieces):
        self.written += list(pieces)

    def set_protocol(self, protocol):
        self.protocol = protocol


def test_what_is_written_is_counted():
    """In bytes, whatever is given; and it is handed on."""
    transport, books = Transport(), Books(0.0)
    assert stamp_sends(transport, books)
    transport.write(b"12")
    transport.write(memoryview(bytearray(8)).cast("I"))
    transport.writelines(iter([b"1", b"234"]))
    assert (books.sent_bytes, books.sent_at > 0) == (14, True)
    assert transport.written == [b"12", bytes(8), b"1", b"234"]


def test_a_protocol_that_is_set_later_is_counted_too():
    """As that of TLS, which start_tls() sets; one that is a proxy already is left alone."""
    transport, books, real = Transport(), Books(0.0), Plain()
    stamp_sends(transport, books)
    transport.set_protocol(real)
    receive(transport.protocol, b"123")
    assert (real_protocol(transport.protocol), books.received_bytes) == (real, 3)
    proxy = proxy_for(real, books, None)
    transport.set_protocol(proxy)
    assert transport.protocol is proxy
    transport.set_protocol(None)
    assert transport.protocol is None


def test_a_transport_that_takes_no_attributes_is_left_alone():
    """Such as one in C."""
    assert not stamp_sends(object(), Books(0.0))
