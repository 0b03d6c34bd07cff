"""A heartbeat against the `websockets` package, at either end: its pongs answer, and its messages arrive whole."""

import contextlib
import itertools
import secrets
import socket
import threading

import pytest

from beating import Beating
from loopback import listen
from sockguard._core.heartbeat import BeatState
from sockguard._core.policy_probes import Heartbeat

pytest.importorskip("websockets.sync", reason="websockets is not installed; it is in the dependency group `tests`")

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.sync.client import connect
from websockets.sync.server import serve
from websockets.uri import parse_uri

pytestmark = pytest.mark.slow
PONGS = b"\x8a\x00" * 5000
"""A message made of what looks like pongs."""


class Application(Beating):
    """A program that uses the package without its sockets, on a socket that has a heartbeat."""

    def __init__(self, sock, heartbeat, protocol, **options) -> None:
        super().__init__(sock, heartbeat, **options)
        self.protocol = protocol
        self.frames: list[Frame] = []
        if isinstance(protocol, ClientProtocol):
            protocol.send_request(protocol.connect())

    def flush(self) -> None:
        """Sends what the package wants to be sent."""
        for data in self.protocol.data_to_send():
            self.send(data)

    def step_until(self, is_enough) -> None:
        """Receives and hands the bytes to the package, until a condition holds."""
        self.flush()
        while not is_enough():
            self.take_in(self.sock.recv(self.size))
            self.flush()

    def take_in(self, data: bytes) -> None:
        assert data, "the peer has hung up"
        self.protocol.receive_data(self.heart.receive(data, self.now))
        for event in self.protocol.events_received():
            if isinstance(event, Frame):
                self.frames.append(event)
            elif isinstance(self.protocol, ServerProtocol):
                self.protocol.send_response(self.protocol.accept(event))

    def wait_for_answer(self) -> None:
        self.step_until(lambda: self.heart.n_answered == self.heart.n_sent)

    def wait_for_message(self) -> bytes:
        """Gives the next message, put together of its frames."""
        self.step_until(lambda: self.data_frames() and self.data_frames()[-1].fin)
        message = b"".join(bytes(frame.data) for frame in self.data_frames())
        self.frames = [frame for frame in self.frames if frame.opcode >= Opcode.CLOSE]
        return message

    def data_frames(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.opcode < Opcode.CLOSE]


def echo(peer) -> None:
    """Sends back what comes; the package answers pings on its own."""
    for message in peer:
        peer.send(message)


def echo_to(port: int, compression: str | None) -> None:
    with connect(f"ws://127.0.0.1:{port}/", compression=compression, ping_interval=None) as peer:
        echo(peer)


@contextlib.contextmanager
def client_application(compression: str | None, size: int):
    """Ours is the client, the package's is the server."""
    extensions = [ClientPerMessageDeflateFactory()] if compression else None
    with serve(echo, "127.0.0.1", 0, compression=compression, ping_interval=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        heartbeat = Heartbeat.websocket(every=20, timeout=5, mask=secrets.token_bytes)
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/"), extensions=extensions)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            yield Application(sock, heartbeat, protocol, size=size)
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def server_application(compression: str | None, size: int):
    """Ours is the server, the package's is the client."""
    extensions = [ServerPerMessageDeflateFactory()] if compression else None
    with listen() as listener:
        thread = threading.Thread(target=echo_to, args=(listener.getsockname()[1], compression))
        thread.start()
        listener.settimeout(10)
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(10)
            protocol = ServerProtocol(extensions=extensions)
            yield Application(sock, Heartbeat.websocket(every=20, timeout=5), protocol, size=size)
        thread.join()


KINDS = [*itertools.product([client_application, server_application], [None, "deflate"], [65536, 5])]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}-{kind[2]}")
def app(request):
    """An application at either end, with and without compression, that receives much or little at a time."""
    make, compression, size = request.param
    with make(compression, size) as application:
        application.step_until(lambda: application.protocol.state is State.OPEN)
        assert bool(application.protocol.extensions) == bool(compression)
        yield application
        application.protocol.send_close()
        application.step_until(lambda: application.frames and application.frames[-1].opcode is Opcode.CLOSE)
        application.now += 20
        assert application.heart.due(application.now, is_excused=False) is None


def test_a_pong_answers_and_the_package_takes_no_offence(app):
    """Round for round, with messages in between; the package sees the pongs, and minds neither them nor our pings."""
    for n in range(1, 4):
        app.ask()
        app.wait_for_answer()
        assert (app.heart.state, app.heart.rtt, app.heart.n_answered) == (BeatState.WAITING, 0.0, n)
        app.protocol.send_text(b"hello")
        assert app.wait_for_message() == b"hello"
    assert [frame.opcode for frame in app.frames] == [Opcode.PONG] * 3


def test_a_message_that_looks_like_pongs_is_no_answer(app):
    """Compressed or not, whole or in fragments between which the ping is sent: only the pong is counted."""
    app.protocol.send_binary(PONGS, fin=False)
    app.flush()
    app.ask()
    app.protocol.send_continuation(PONGS, fin=True)
    assert app.wait_for_message() == PONGS * 2
    app.wait_for_answer()
    assert [frame.opcode for frame in app.frames] == [Opcode.PONG]
    app.protocol.send_binary(PONGS)
    app.flush()
    app.ask()
    assert app.wait_for_message() == PONGS
    app.wait_for_answer()
    assert (app.heart.n_answered, len(app.frames)) == (2, 2)


def test_pings_of_the_package_itself_go_their_own_way(app):
    """Their pongs reach it with their payload; and any pong shows that the peer lives."""
    app.protocol.send_ping(b"mine")
    app.flush()
    app.ask()
    app.wait_for_answer()
    app.step_until(lambda: len(app.frames) == 2)
    assert [bytes(frame.data) for frame in app.frames] == [b"mine", b""]
    assert app.heart.n_answered == 1


def test_a_pong_that_we_have_not_read_excuses_the_peer(app):
    """While it lies in our own receive queue, no time counts; without the excuse, a live peer would be lost."""
    app.ask()
    assert app.sock.recv(1, socket.MSG_PEEK)
    app.now += 3600
    assert app.heart.check(app.now, is_excused=True) is BeatState.ASKED
    app.wait_for_answer()
    assert app.heart.state is BeatState.WAITING


def test_a_peer_of_which_nothing_comes_is_lost(app):
    """Nothing was read, and nothing excuses it."""
    app.ask()
    assert [app.silence(4.9), app.silence(0.1)] == [BeatState.ASKED, BeatState.LOST]
