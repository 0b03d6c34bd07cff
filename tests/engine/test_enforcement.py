"""How a connection is ended: the ladder, step by step, on real sockets under a clock that the test moves."""

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
import weakref

import pytest

from guarded import driven
from loopback import connect, reset, state_of, vanished_peer
from sockguard._kernel.activity import read_activity
from waiting import eventually

ESTABLISHED, CLOSE, CLOSE_WAIT = 1, 7, 8


def test_a_peer_that_hung_up_is_let_go_after_the_fin_timeout():
    """Not a moment before, and by shutdown(): the number stays with its owner, who sees EOF on it."""
    with vanished_peer() as c, driven(fin_timeout=5, leak_after=None) as d:
        record = d.adopt(c.server)
        d.tick()
        d.tick(4.9)
        assert (state_of(c.server), d.closed()) == (CLOSE_WAIT, [])
        d.tick(0.5)
        assert d.closed() == [("half_closed", "shut_down")]
        assert eventually(lambda: state_of(c.server) != CLOSE_WAIT)
        assert record.is_ended_by_guard
        assert c.server.recv(1) == b""
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # the latter if many orphans make the peer forget
            c.server.send(b"x")


def test_what_is_unread_stays_readable_through_every_step():
    """Our FIN first, a second fin_timeout to read in, then the rest; all bytes are there in the end."""
    with vanished_peer(sent=b"precious") as c, driven(fin_timeout=5, leak_after=None) as d:
        d.adopt(c.server)
        d.tick()
        d.tick(5.25)
        assert d.closed() == [("half_closed", "fin_sent")]
        assert eventually(lambda: state_of(c.server) == CLOSE)
        d.tick(0.25)  # sees that our FIN was acknowledged
        d.tick(4.5)
        assert not d.guard.registry.by_fd[c.server.fileno()].is_ended_by_guard
        d.tick(1)
        assert d.guard.registry.by_fd[c.server.fileno()].is_ended_by_guard
        assert c.server.recv(100) == b"precious"
        assert len(d.told("connection_closed")) == 1


def test_reading_what_is_queued_is_progress():
    """An application that works off a full queue is not ended, however long ago the last packet came."""
    with vanished_peer(sent=bytes(100)) as c, driven(fin_timeout=5) as d:
        d.adopt(c.server)
        d.tick()
        for _ in range(10):
            c.server.recv(10)
            d.tick(4)
        assert d.closed() == []
        d.tick(4)
        d.tick(4)
        assert d.closed() == [("half_closed", "shut_down")]


def test_what_the_peer_acknowledges_is_progress():
    """A half-closed client that gets a long answer is not ended while it takes it in."""
    with connect() as c, driven(fin_timeout=5) as d:
        d.adopt(c.server)
        c.client.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(c.server) == CLOSE_WAIT)
        d.tick()
        for _ in range(10):
            c.server.send(b"more")
            assert c.client.recv(4) == b"more"
            eventually(lambda: read_activity(c.server).unsent == 0)  # the acknowledgement is on its way back
            d.tick(4)
        assert (state_of(c.server), d.closed()) == (CLOSE_WAIT, [])


def test_half_close_allow_only_reports():
    """With `allow` a half-closed connection is reported as a leak and never ended."""
    with vanished_peer() as c, driven(half_close="allow", fin_timeout=1, leak_after=2) as d:
        d.adopt(c.server)
        for _ in range(20):
            d.tick(1)
        assert (state_of(c.server), d.closed(), len(d.told("leak_detected"))) == (CLOSE_WAIT, [], 1)


def test_half_close_close_waits_for_the_eof_to_be_read_and_no_longer():
    """The strict rule: an EOF that is unread holds it off; once read, the next look ends it."""
    with vanished_peer() as c, driven(half_close="close", fin_timeout=60) as d:
        d.adopt(c.server)
        d.tick()
        d.tick(10)
        assert d.closed() == []
        assert c.server.recv(1) == b""
        d.tick(10)
        assert d.closed() == [("half_closed", "shut_down")]


def test_observe_touches_nothing_and_says_what_it_would_have_done():
    """One event with mode `observe`, no shutdown, no keepalive, no second event."""
    with vanished_peer() as c, driven(mode="observe", fin_timeout=1) as d:
        record = d.adopt(c.server)
        for _ in range(10):
            d.tick(1)
        assert state_of(c.server) == CLOSE_WAIT
        [event] = d.told("connection_closed")
        assert event.fields["mode"] == "observe"
        assert "Would have closed" in event.message
        assert not record.is_ended_by_guard
        assert c.server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"idle_timeout": 5}, "idle"),
        ({"read_idle_timeout": 5}, "read_idle"),
        ({"first_byte_timeout": 5}, "first_byte"),
        ({"max_lifetime": 5, "max_lifetime_jitter": None}, "lifetime"),
    ],
)
def test_a_silent_connection_is_ended_by_its_clause(fields, reason):
    """Each clause ends a connection on which nothing ever moves, after its time and not before."""
    with connect() as c, driven(**fields) as d:
        d.adopt(c.server)
        d.tick()
        d.tick(4.5)
        assert (state_of(c.server), d.closed()) == (ESTABLISHED, [])
        d.tick(1)
        assert d.closed(c.server) == [(reason, "shut_down")]
        assert eventually(lambda: c.client.recv(1) == b"")


def test_a_peer_that_does_not_read_is_ended_by_the_write_stall_timeout():
    """A zero window, with data queued and nothing acknowledged: only that clause ends it, and reading spares it."""
    with connect() as c, driven(write_stall_timeout=5) as d:
        c.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.server.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while c.server.send(bytes(1 << 20)):
                pass
        d.adopt(c.server)
        d.tick()
        d.tick(3)
        d.tick(1)
        assert d.closed() == []
        for _ in range(20):
            c.client.recv(1 << 16)
        time.sleep(0.3)  # the window update and what it lets through
        for _ in range(5):
            d.tick(1)
        assert d.closed() == []
        for _ in range(8):
            d.tick(1)
        assert d.closed() == [("write_stalled", "shut_down")]


def test_a_request_that_trickles_in_is_ended_and_one_that_is_answered_is_not():
    """min_receive_rate: bytes that keep coming too slowly without any answer; silence after a request is not slow."""
    with connect() as slow, connect() as served, driven(min_receive_rate=100, receive_rate_grace=5) as d:
        d.adopt(slow.server)
        d.adopt(served.server)
        served.client.send(b"request")
        for _ in range(10):
            slow.client.send(b"x")
            time.sleep(0.01)
            d.tick(2)
        assert d.closed() == [("receive_rate", "fin_sent")]
        assert state_of(served.server) == ESTABLISHED


def test_a_timed_out_peer_is_reset_where_the_policy_says_so():
    """on_timeout="reset": the peer gets a RST instead of a FIN."""
    with connect() as c, driven(idle_timeout=5, on_timeout="reset") as d:
        d.adopt(c.server)
        d.tick()
        d.tick(6)
        with pytest.raises(ConnectionResetError):
            c.client.recv(1)
        assert d.closed() == [("idle", "shut_down")]


def test_a_reset_connection_is_reported_dead_and_left_to_its_owner():
    """There is nothing to shut down: its descriptor can only be closed by who owns it."""
    with connect() as c, driven(fin_timeout=1, leak_after=2) as d:
        d.adopt(c.server)
        reset(c.client)
        eventually(lambda: state_of(c.server) == CLOSE)
        for _ in range(6):
            d.tick(1)
        [leak] = d.told("leak_detected")
        assert leak.fields["cause"] == "dead_fd"
        assert d.closed() == []


def test_another_connection_under_the_same_number_is_never_touched():
    """The number is closed and given to a healthy connection right before the verdict falls."""
    with vanished_peer() as sick, connect() as healthy, driven(fin_timeout=5) as d:
        d.adopt(sick.server)
        d.tick()
        number = sick.server.fileno()
        sick.server.close()
        reused = healthy.server.dup()
        assert reused.fileno() == number
        d.tick(6)
        healthy.client.send(b"alive")
        assert reused.recv(5) == b"alive"
        assert d.closed() == []
        reused.close()


def test_a_connection_is_watched_on_when_its_object_has_died():
    """detach() and a new object for the same descriptor: what counts is the connection."""
    with connect() as c, driven(fin_timeout=5) as d:
        d.adopt(c.server)
        d.tick()
        heir = socket.socket(fileno=c.server.detach())
        gc.collect()
        c.client.close()
        eventually(lambda: state_of(heir) == CLOSE_WAIT)
        d.tick()
        d.tick(6)
        assert d.closed() == [("half_closed", "shut_down")]
        heir.close()


def test_no_object_of_the_application_is_kept_alive():
    """A socket that the program drops is collected at once, and its record forgotten at the next tick."""
    with connect() as c, driven() as d:
        dropped = c.server.dup()
        d.adopt(dropped)
        d.tick()
        ghost = weakref.ref(dropped)
        with pytest.warns(ResourceWarning):
            del dropped
        assert ghost() is None
        d.tick()
        assert d.guard.registry.by_fd == {}


def test_tls_keeps_the_connection_guarded():
    """wrap_socket() takes the descriptor over and drops the original object; the peer's FIN is seen all the same."""
    with connect() as c, driven(fin_timeout=5) as d:
        d.adopt(c.server)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        wrapped = context.wrap_socket(c.server, server_side=True, do_handshake_on_connect=False)
        c.client.close()
        eventually(lambda: state_of(wrapped) == CLOSE_WAIT)
        d.tick()
        d.tick(6)
        assert d.closed() == [("half_closed", "shut_down")]
        wrapped.close()


class Loop:
    """An asyncio loop in a thread, with one server connection whose writer is kept for ever."""

    def __init__(self, d):
        self.loop = asyncio.new_event_loop()
        self.writers = asyncio.Queue()
        self.kept = []
        self.gate = asyncio.Event()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.driven = d

    def do(self, coroutine):
        """Runs a coroutine on the loop and gives its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def serve(self):
        """Accepts one connection, adopts it on the loop's thread as the wrapped accept() would."""

        async def keep(_reader, writer):
            self.writers.put_nowait(writer)
            self.kept.append(writer)
            await self.gate.wait()

        self.server = await asyncio.start_server(keep, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()

    async def adopt(self):
        """Adopts what the server has accepted."""
        transport = (await self.writers.get()).transport
        self.transport = transport
        self.sock = transport.get_extra_info("socket")
        return self.driven.adopt(self.raw)

    async def pause(self):
        """Has the transport read nothing."""
        self.transport.pause_reading()

    @property
    def raw(self):
        """The transport's own socket, a private name of asyncio."""
        return self.transport._sock  # noqa: SLF001

    async def _end(self):
        self.server.close()
        for writer in self.kept:
            writer.transport.abort()
        self.gate.set()
        await asyncio.sleep(0.05)

    def end(self):
        """Ends the loop and its thread."""
        self.do(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def looped():
    """A guard with a fin_timeout of 5 s and a loop in a thread, whose one client has hung up."""
    with driven(fin_timeout=5, leak_after=None) as d:
        running = Loop(d)
        with socket.create_connection(running.do(running.serve())):
            running.record = running.do(running.adopt())
        eventually(lambda: state_of(running.raw) == CLOSE_WAIT)
        d.tick()
        yield d, running
        running.end()


def test_a_transport_is_aborted_on_its_own_loop_and_its_descriptor_released(looped):
    """The owner's own way: the loop closes the descriptor, and the guard forgets the connection."""
    d, running = looped
    d.tick(6)
    assert d.closed() == [("half_closed", "owner_asked")]
    assert eventually(lambda: running.sock.fileno() == -1)
    d.tick(2)
    assert d.guard.registry.by_fd == {}


def test_a_blocked_loop_does_not_keep_the_connection(looped):
    """Asked and not answering for a second: it is shut down from outside; what was asked for later does no harm."""
    d, running = looped
    gate = threading.Event()
    running.loop.call_soon_threadsafe(gate.wait, 30)
    d.tick(6)
    raw = running.raw
    assert state_of(raw) == CLOSE_WAIT
    d.tick(1.5)
    assert running.record.is_ended_by_guard
    assert eventually(lambda: state_of(raw) != CLOSE_WAIT)
    gate.set()
    assert eventually(lambda: running.sock.fileno() == -1)


def test_a_connection_that_moved_before_its_loop_came_round_is_spared(looped):
    """Between the verdict and the abort the application sent, and the peer acknowledged: it is not aborted."""
    d, running = looped
    # A client that half-closes instead of vanishing, so that it can still acknowledge.
    with socket.create_connection(running.server.sockets[0].getsockname()) as client:
        record = running.do(running.adopt())
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(running.raw) == CLOSE_WAIT)
        d.tick()
        gate = threading.Event()
        running.loop.call_soon_threadsafe(gate.wait, 30)
        d.tick(6)
        assert ("half_closed", "owner_asked") in d.closed()
        running.raw.send(b"late")
        assert client.recv(4) == b"late"
        eventually(lambda: read_activity(running.raw).unsent == 0)
        gate.set()
        running.do(asyncio.sleep(0.05))
        d.tick(1.5)
        assert state_of(running.raw) == CLOSE_WAIT
        assert not record.is_ended_by_guard


@contextlib.contextmanager
def asked(**policy):
    """A connection on a loop that is blocked while its owner is asked to let it go; gives its ends, and lets go on."""
    with driven(leak_after=None, **policy) as d:
        running = Loop(d)
        with socket.create_connection(running.do(running.serve())) as client:
            running.do(running.adopt())
            d.tick()
            gate = threading.Event()
            running.loop.call_soon_threadsafe(gate.wait, 30)
            d.tick(6)
            assert [step for _, step in d.closed()] == ["owner_asked"]

            def go_on():
                gate.set()
                running.do(asyncio.sleep(0.05))
                d.tick(0.25)

            yield client, running, go_on
        running.end()


def test_a_request_that_arrives_before_its_loop_comes_round_is_not_lost():
    """Nobody has read it yet, but the connection is idle no more."""
    with asked(idle_timeout=5) as (client, running, go_on):
        client.sendall(b"request")
        eventually(lambda: read_activity(running.raw).unread)
        go_on()
        assert running.sock.fileno() >= 0
        running.raw.send(b"answer")
        assert client.recv(9) == b"answer"


def test_bytes_that_move_do_not_save_what_is_too_old():
    """Else a connection that is busy all the time would never be ended for its age."""
    with asked(max_lifetime=5, max_lifetime_jitter=None) as (client, running, go_on):
        client.sendall(b"request")
        eventually(lambda: read_activity(running.raw).unread)
        go_on()
        assert eventually(lambda: running.sock.fileno() == -1)


def test_one_that_is_spared_ends_without_a_reset_later():
    """`on_timeout="reset"` is for the end that it was meant for, not for the program's own close()."""
    with asked(idle_timeout=5, on_timeout="reset") as (client, running, go_on):
        client.sendall(b"request")
        eventually(lambda: read_activity(running.raw).unread)
        go_on()
        assert running.raw.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)


def test_one_that_is_aborted_gets_the_reset_that_was_meant():
    """Its peer sees it."""
    with asked(idle_timeout=5, on_timeout="reset") as (client, _, go_on):
        go_on()
        with pytest.raises(ConnectionResetError):
            client.recv(9)


def test_what_both_ends_have_closed_can_be_read_for_a_second_time_out():
    """A loop that lets go of it would throw away what the peer has sent."""
    with driven(leak_after=None, fin_timeout=5) as d:
        running = Loop(d)
        with socket.create_connection(running.do(running.serve())) as client:
            running.do(running.adopt())
            running.do(running.pause())
            client.sendall(b"the answer")
        eventually(lambda: state_of(running.raw) == CLOSE_WAIT)
        running.raw.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(running.raw) == CLOSE)
        d.tick()
        d.tick(6)
        assert (running.sock.fileno() >= 0, d.closed()) == (True, [])
        d.tick(5)
        assert eventually(lambda: running.sock.fileno() == -1)
        assert d.closed() == [("dead", "owner_asked")]
        running.end()


@pytest.mark.parametrize(("leak_after", "n_told"), [(5, 0), (2, 1)])
def test_what_is_being_ended_is_not_told_as_a_leak_after_that(leak_after, n_told):
    """Where both times are the same, its end is the news; where the leak is due before, it comes first."""
    with driven(fin_timeout=5, leak_after=leak_after) as d:
        running = Loop(d)
        with socket.create_connection(running.do(running.serve())):
            running.do(running.adopt())
        eventually(lambda: state_of(running.raw) == CLOSE_WAIT)
        d.tick()
        gate = threading.Event()
        running.loop.call_soon_threadsafe(gate.wait, 30)
        for _ in range(6):
            d.tick(1)
        gate.set()
        eventually(lambda: running.sock.fileno() == -1)
        assert (len(d.told("leak_detected")), d.closed()[0]) == (n_told, ("half_closed", "owner_asked"))
        running.end()


def test_a_raw_socket_on_a_loop_has_no_transport_and_is_shut_down(looped):
    """loop.sock_recv() and its kin: no transport owns the descriptor, so the next look acts from outside."""
    d, running = looped

    async def adopt(sock):
        return d.adopt(sock)

    with vanished_peer() as c:
        record = running.do(adopt(c.server))
        d.tick()
        d.tick(6)
        running.do(asyncio.sleep(0))
        d.tick(1.5)
        assert record.is_ended_by_guard
        assert c.server.fileno() >= 0  # still its owner's


def test_observe_takes_no_leak_back():
    """What was told of as leaked is leaked still after the guard has said what it would have done."""
    with vanished_peer() as c, driven(mode="observe", fin_timeout=4, leak_after=2) as d:
        d.adopt(c.server)
        for _ in range(10):
            d.tick(1)
        assert len(d.told("leak_detected")) == 1
        assert d.told("leak_cleared") == []


def test_observe_reports_a_leak_also_after_its_time_is_up():
    """A fin_timeout shorter than leak_after does not hide the leak where nothing is ended."""
    with vanished_peer() as c, driven(mode="observe", fin_timeout=1, leak_after=5) as d:
        d.adopt(c.server)
        for _ in range(10):
            d.tick(1)
        assert len(d.told("leak_detected")) == 1


def test_another_connection_under_the_number_of_a_dead_object_gets_its_own_side():
    """The accepted one was closed before the first tick, and a client of ours, announced by nobody, has its number."""
    with connect() as first, connect() as second, driven(first_byte_timeout=5) as d:
        number = first.server.fileno()
        d.guard.adopt(first.server, first.server, True)
        first.server.close()
        client = second.client.dup()
        assert client.fileno() == number
        d.tick()
        d.tick(10)
        assert not d.guard.registry.by_fd[number].is_server
        assert state_of(client) == ESTABLISHED
        client.close()


def test_a_forked_child_does_not_ask_the_loop_of_its_parent(looped):
    """What is inherited has no loop there; the other loops of the parent do not run in the child."""
    d, running = looped
    d.guard.registry.after_fork_in_child()
    assert running.record.loop is None
    d.tick(6)
    assert d.closed() == [("half_closed", "shut_down")]
