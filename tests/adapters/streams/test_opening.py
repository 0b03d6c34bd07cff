"""anyio's listeners and streams with a guard, on real sockets: on asyncio, on asyncio with uvloop, and on trio."""

import contextlib
import errno
import functools
import gc
import math
import re
import socket
import time
import weakref

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSAttribute, TLSListener, TLSStream

from guarded import driven
from loopback import reset, state_of
from loops import client_tls, server_tls
from sockguard import Policy
from sockguard._core.policy_probes import Heartbeat
from sockguard._engine import current, terms
from sockguard._kernel.backend import keeps_books
from sockguard.adapters.streams.owners import unread_bytes
from sockguard.anyio import GuardedAttribute, GuardedStream, connect_tcp, create_tcp_listener, guard_stream
from sockguard.errors import UsageError
from waiting import eventually

LONG = 1000.0
"""Seconds that no test waits: what ends earlier was not ended by this time-out."""
PATIENCE = 10.0
"""Seconds; what is waited for takes milliseconds, so this is only met by a bug or a stopped machine."""
STRICT = Policy(half_close="close")
EACH = pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])


def run(backend, main, *args):
    """Runs a test on a back end of anyio."""
    pytest.importorskip("trio" if backend == "trio" else backend)
    options = {"use_uvloop": True} if backend == "uvloop" else {}

    async def bounded():
        with anyio.fail_after(60):
            return await main(*args)

    return anyio.run(bounded, backend="trio" if backend == "trio" else "asyncio", backend_options=options)


@pytest.fixture(autouse=True)
def guard(monkeypatch):
    """The guard of the wrappers: it has no thread, and time passes only at its `tick`."""
    with driven(fin_timeout=30) as made:
        monkeypatch.setattr(current, "_make", lambda thread: made.guard)
        yield made


def port_of(listener):
    return listener.extra(SocketAttribute.local_port)


def raw_of(stream):
    return stream.extra(SocketAttribute.raw_socket)


@contextlib.asynccontextmanager
async def pair(policy=None):
    """Connects a plain blocking socket to a guarded listener, and gives both ends: ours, and the peer's."""
    async with await create_tcp_listener(local_host="127.0.0.1", policy=policy) as listener:
        with socket.create_connection(("127.0.0.1", port_of(listener)), timeout=PATIENCE) as peer:
            stream = await listener.listeners[0].accept()
            try:
                yield stream, peer
            finally:
                await anyio.aclose_forcefully(stream)


async def until(predicate, *, guard=None, after=0.0):
    """Waits until the predicate is true; time passes meanwhile for a guard, `after` seconds for each tick."""
    with anyio.fail_after(PATIENCE):
        while not predicate():
            if guard is not None:
                guard.tick(after)
            await anyio.sleep(0.002)


async def read_all(peer):
    """Reads what the peer gets, to the end, while the event loop goes on."""

    def read():
        return b"".join(iter(functools.partial(peer.recv, 65536), b""))

    return await anyio.to_thread.run_sync(read)


async def leave_unread(stream, peer, data):
    """Has the peer send what nobody reads, after a first receive(): before that, anyio on asyncio reads by itself."""
    peer.sendall(b"!")
    assert await stream.receive() == b"!"
    peer.sendall(data)
    await until(lambda: unread_bytes(raw_of(stream)) > 0)


def is_closed(raw):
    return raw.fileno() == -1


async def ticks(guard, *, after=0.25, n=4):
    """Lets time pass for the guard, and lets the event loop do what it is asked."""
    for _ in range(n):
        guard.tick(after)
        await anyio.sleep(0.002)


async def parked_on(call, *args):
    """Runs a call that waits, and gives the error that it is ended by."""
    try:
        await call(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    return None


def cause_of(error):
    assert type(error) is anyio.BrokenResourceError
    assert type(error.__cause__) is ConnectionAbortedError
    assert error.__cause__.errno == errno.ECONNABORTED
    return error.__cause__.strerror


class Parked:
    """A task that waits for a call; `error` is what ended it."""

    def __init__(self, tasks, call, *args):
        self.error = None
        tasks.start_soon(self._run, call, *args)

    async def _run(self, call, *args):
        self.error = await parked_on(call, *args)


# --- A stream like any other ---


@EACH
def test_a_guarded_stream_is_a_socket_stream_with_the_attributes_of_the_original(backend, guard):
    """It is an instance of that class, tells what the stream below tells, and gives the connection besides."""

    async def main():
        async with pair() as (stream, peer):
            assert isinstance(stream, GuardedStream)
            assert isinstance(stream, anyio.abc.SocketStream)
            assert stream.extra(SocketAttribute.remote_address) == peer.getsockname()
            assert stream.extra(GuardedAttribute.connection) is stream.connection
            peer.sendall(b"ping")
            assert await stream.receive() == b"ping"
            await stream.send(b"pong")
            assert peer.recv(10) == b"pong"
            assert (stream.connection.bytes_received, stream.connection.bytes_sent) == (4, 4)
            assert stream.connection.state == "open"
            await stream.send_eof()
            assert await read_all(peer) == b""
        assert stream.connection.state == "closed"

    run(backend, main)


@pytest.mark.needs_books
@EACH
def test_both_ends_can_be_ours(backend, guard):
    """connect_tcp gives a guarded stream too; the guard knows which end accepted."""

    async def main():
        async with (
            await create_tcp_listener(local_host="127.0.0.1") as listener,
            await connect_tcp("127.0.0.1", port_of(listener)) as client,
            await listener.listeners[0].accept() as server,
        ):
            await client.send(b"x" * 100_000)
            received = BufferedByteReceiveStream(server)
            assert await received.receive_exactly(100_000) == b"x" * 100_000
            guard.tick()
            records = [record for record in guard.guard.registry.records() if record.terms is not None]
            sides = {record.fd: record.is_server for record in records}
            assert sides == {raw_of(client).fileno(): False, raw_of(server).fileno(): True}

    run(backend, main)


@EACH
def test_a_listener_has_the_policy_and_a_stream_can_have_another(backend):
    """What it accepts has the listener's policy; guard_stream on top gives that one connection another."""

    async def main():
        async with pair(Policy(idle_timeout=7)) as (stream, _):
            assert stream.connection.policy.idle_timeout == 7
            again = guard_stream(stream, Policy(idle_timeout=8))
            assert again.connection.policy.idle_timeout == 8
            assert type(again.unguarded) is type(stream.unguarded)

    run(backend, main)


@EACH
def test_nonsense_is_refused_before_anything_is_opened(backend):
    """A policy that is none, and a stream without a socket, are named together with the remedy."""

    async def main():
        with pytest.raises(UsageError, match=r"policy=\{'idle_timeout': 3\} is no sockguard.Policy"):
            await create_tcp_listener(local_host="127.0.0.1", policy={"idle_timeout": 3})
        with pytest.raises(UsageError, match=r"is no sockguard\.Policy"):
            await connect_tcp("127.0.0.1", 1, policy=3)
        send, receive = anyio.create_memory_object_stream[bytes](1)
        with send, receive, pytest.raises(UsageError, match=r"give a byte stream that has SocketAttribute.raw_socket"):
            guard_stream(receive)
        with pytest.raises(UsageError, match="no socket to guard"):
            guard_stream(None)

    run(backend, main)


@EACH
def test_a_call_on_a_closed_stream_is_refused_as_anyio_does(backend):
    """After aclose() each call raises ClosedResourceError, and so does the one that waited then."""

    async def main():
        async with pair() as (stream, peer), anyio.create_task_group() as tasks:
            waits = Parked(tasks, stream.receive)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
            await until(lambda: waits.error)
            assert type(waits.error) is anyio.ClosedResourceError
            for call in (stream.receive, functools.partial(stream.send, b"x"), stream.send_eof):
                with pytest.raises(anyio.ClosedResourceError):
                    await call()
            await stream.aclose()
            assert peer.recv(1) == b""

    run(backend, main)


@EACH
def test_two_tasks_in_one_call_are_refused_and_harm_nothing(backend):
    """BusyResourceError is the caller's mistake: the connection stays, and the first task gets the bytes."""

    async def main():
        async with pair() as (stream, peer), anyio.create_task_group() as tasks:
            got = []

            async def first():
                got.append(await stream.receive())

            tasks.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.receive()
            peer.sendall(b"mine")
            await until(lambda: got)
            assert got == [b"mine"]

    run(backend, main)


@EACH
@pytest.mark.parametrize("heartbeat", [None, Heartbeat(b"PING\n", 0.01)])
def test_a_cancelled_receive_loses_nothing(backend, heartbeat):
    """However often receive() is cancelled while bytes come, all of them arrive, in order."""

    async def main():
        async with pair(Policy(heartbeat=heartbeat)) as (stream, peer):
            sent = bytes(range(256)) * 16

            def send_in_pieces():
                for start in range(0, len(sent), 64):
                    if start + 64 == len(sent):
                        eventually(lambda: n_cancelled)
                    peer.sendall(sent[start : start + 64])
                    time.sleep(0.004)

            got, n_cancelled = b"", 0
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, send_in_pieces)
                while len(got) < len(sent):
                    with anyio.move_on_after(0.001) as scope:
                        got += await stream.receive(50)
                    n_cancelled += scope.cancelled_caught
            assert got == sent
            assert n_cancelled > 0

    run(backend, main)


@EACH
@pytest.mark.parametrize("heartbeat", [None, Heartbeat(b"PING\n", LONG)])
def test_cancellation_is_never_swallowed(backend, heartbeat):
    """A call in a cancelled scope is cancelled, also if it would raise; and so is one that waits."""

    async def main():
        async with pair(Policy(heartbeat=heartbeat)) as (stream, _):
            with anyio.move_on_after(0.01) as scope:
                await stream.receive()
            assert scope.cancelled_caught
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.send(b"x")
            assert scope.cancelled_caught
            await stream.aclose()
            for call in (stream.receive, functools.partial(stream.send, b"x")):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await call()
                assert scope.cancelled_caught

    run(backend, main)


# --- The end of the stream, and errors ---


@EACH
def test_the_end_of_the_stream_leaves_it_open_for_an_answer(backend):
    """By default a half-closed connection can still be answered, and its end is told as often as asked for."""

    async def main():
        async with pair() as (stream, peer):
            peer.sendall(b"question")
            peer.shutdown(socket.SHUT_WR)
            assert await stream.receive() == b"question"
            for _ in range(2):
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            await stream.send(b"answer")
            assert peer.recv(10) == b"answer"

    run(backend, main)


@EACH
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_strict_policy_closes_on_the_very_call_that_met_the_end(backend, mode):
    """With half_close="close" the descriptor is released when EndOfStream is raised; never when only observing."""

    async def main():
        async with pair(Policy(half_close="close", mode=mode)) as (stream, peer):
            raw = raw_of(stream)
            peer.sendall(b"bye")
            peer.shutdown(socket.SHUT_WR)
            assert await stream.receive() == b"bye"
            assert not is_closed(raw)
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            if mode == "observe":
                assert not is_closed(raw)
                return
            assert is_closed(raw)
            assert peer.recv(1) == b""
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            assert 'its end was read (half_close="close")' in cause_of(await parked_on(stream.send, b"x"))

    run(backend, main)


@EACH
def test_a_reset_closes_on_the_very_call_that_met_it(backend):
    """BrokenResourceError comes from the ConnectionResetError, at that call and at each one after it."""

    async def main():
        async with pair() as (stream, peer):
            raw = raw_of(stream)
            reset(peer)
            for _ in range(2):
                error = await parked_on(stream.receive)
                assert type(error) is anyio.BrokenResourceError
                assert isinstance(error.__cause__, ConnectionResetError)
                assert is_closed(raw)
            assert type(await parked_on(stream.send, b"x")) is anyio.BrokenResourceError

    run(backend, main)


def test_a_failed_send_leaves_what_is_still_to_be_read():
    """On trio, bytes that came before a reset are read after a send has failed; then the stream is closed."""

    async def main():
        async with pair() as (stream, peer):
            raw = raw_of(stream)
            await leave_unread(stream, peer, b"last words")
            reset(peer)
            await until(lambda: state_of(raw) == 7)
            assert type(await parked_on(stream.send, b"x")) is anyio.BrokenResourceError
            assert not is_closed(raw)
            assert await stream.receive() == b"last words"
            await parked_on(stream.receive)
            await parked_on(stream.send, b"x")
            assert is_closed(raw)

    run("trio", main)


def test_a_failed_send_with_nothing_to_read_closes():
    """On trio, a send that fails on a connection that is over closes it on that call."""

    async def main():
        async with pair() as (stream, peer):
            raw = raw_of(stream)
            reset(peer)
            await until(lambda: state_of(raw) == 7)
            error = await parked_on(stream.send, b"x")
            assert type(error) is anyio.BrokenResourceError
            assert is_closed(raw)

    run("trio", main)


# --- Ended by the guard ---


@EACH
def test_who_waits_for_bytes_is_told_why_the_guard_ended_it(backend, guard):
    """A receive() that waits is ended by an error that names setting and seconds; the descriptor is released."""

    async def main():
        async with pair(Policy(idle_timeout=5)) as (stream, peer), anyio.create_task_group() as tasks:
            raw = raw_of(stream)
            waits = Parked(tasks, stream.receive)
            await until(lambda: waits.error, guard=guard, after=3)
            assert "(idle_timeout=5)" in cause_of(waits.error)
            assert cause_of(waits.error).startswith("sockguard ended this connection: nothing had moved either way")
            assert is_closed(raw)
            assert peer.recv(1) == b""
            for call in (stream.receive, functools.partial(stream.send, b"x"), stream.send_eof):
                assert "(idle_timeout=5)" in cause_of(await parked_on(call))
            assert "(idle_timeout=5)" in stream.connection.ended_by

    run(backend, main)


@EACH
def test_whoever_is_woken_by_the_guards_own_thread_is_told_why(backend, guard):
    """The reason is known before the wait is ended: the event loop goes on at once, in another thread."""

    async def main():
        listener = await create_tcp_listener(local_host="127.0.0.1", policy=Policy(idle_timeout=5))
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(listener)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            waits = []
            for _ in range(60):
                stack.enter_context(connected(listener))
                waits.append(Parked(tasks, (await listener.listeners[0].accept()).receive))
            for _ in range(4):
                await anyio.to_thread.run_sync(guard.tick, 3)
            await until(lambda: all(wait.error for wait in waits))
            assert {type(wait.error) for wait in waits} == {anyio.BrokenResourceError}
            assert all("(idle_timeout=5)" in cause_of(wait.error) for wait in waits)

    run(backend, main)


@EACH
def test_a_descriptor_that_nobody_waits_for_is_released_too(backend, guard):
    """A handler parked on something else keeps its stream, but not the descriptor; its next call is told why."""

    async def main():
        async with pair(Policy(idle_timeout=5)) as (stream, peer):
            raw = raw_of(stream)
            await until(lambda: is_closed(raw), guard=guard, after=3)
            assert peer.recv(1) == b""
            assert "(idle_timeout=5)" in cause_of(await parked_on(stream.send, b"x"))
            assert guard.told("leak_detected") == []

    run(backend, main)


@EACH
@pytest.mark.parametrize("call", ["send", "send_eof"])
def test_the_first_call_after_the_end_is_told_why(backend, guard, call):
    """Whichever call comes first after the guard has ended the connection, none pretends to have sent something."""

    async def main():
        async with pair(Policy(idle_timeout=5)) as (stream, _):
            await ticks(guard, after=3)
            calls = {"send": functools.partial(stream.send, b"x"), "send_eof": stream.send_eof}
            assert "(idle_timeout=5)" in cause_of(await parked_on(calls[call]))

    run(backend, main)


@EACH
def test_a_peer_that_hung_up_and_a_handler_that_is_parked(backend, guard):
    """The leak that no garbage collector finds is ended `fin_timeout` after it stands still, and released."""

    async def main():
        async with pair(Policy(fin_timeout=20)) as (stream, peer):
            raw = raw_of(stream)
            guard.tick()
            peer.close()
            await until(lambda: state_of_any(raw) == 8)
            await until(lambda: is_closed(raw), guard=guard, after=8)
            error = await parked_on(stream.receive)
            # asyncio had read the peer's end already, and gives it; trio had not.
            assert type(error) is anyio.EndOfStream or "(fin_timeout=20)" in cause_of(error)
            assert "fin_timeout=20" in stream.connection.ended_by

    run(backend, main)


def state_of_any(raw):
    return raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@EACH
def test_a_peer_that_has_reset_and_a_handler_that_is_parked(backend, guard):
    """There is nothing left to shut down then, but a descriptor to release."""

    async def main():
        async with pair(Policy(fin_timeout=20)) as (stream, peer):
            raw = raw_of(stream)
            guard.tick()
            reset(peer)
            await until(lambda: is_closed(raw) or state_of_any(raw) == 7)
            await until(lambda: is_closed(raw), guard=guard, after=8)
            assert type(await parked_on(stream.receive)) is anyio.BrokenResourceError

    run(backend, main)


@EACH
def test_a_deadline_ends_the_request_and_says_so(backend, guard):
    """A block that takes longer than connection.deadline() is ended by the guard, as TimeoutError."""

    async def main():
        async with pair() as (stream, peer):
            errors = []

            async def request():
                try:
                    with stream.connection.deadline(5):
                        while True:
                            await stream.receive()
                except TimeoutError as error:
                    errors.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(request)
                await anyio.wait_all_tasks_blocked()
                guard.tick()
                peer.sendall(b"trickle")
                await until(lambda: errors, guard=guard, after=3)
            assert "longer than its deadline of 5 s" in str(errors[0])

    run(backend, main)


@EACH
def test_a_policy_given_explicitly_wins_over_the_installed_one(backend, guard):
    """The guard's own policy ends others; one that has none of these time-outs stays."""

    async def main():
        async with pair(Policy(idle_timeout=LONG)) as (stream, peer):
            await ticks(guard, after=20)
            await stream.send(b"alive")
            assert peer.recv(10) == b"alive"

    guard.guard.change_policy(Policy(idle_timeout=5))
    guard.guard._sweep._established._due_at = math.inf  # noqa: SLF001 - as tests/guarded.py: the peer is in this process
    run(backend, main)


@EACH
def test_the_guard_keeps_no_stream_alive(backend, guard):
    """A stream that the program drops is collected, and so is what the guard knew it by."""

    async def main():
        async with pair() as (stream, _):
            guard.tick()
            watched = guard_stream(stream.unguarded)
            guard.tick()
            ref = weakref.ref(watched)
            del watched
            gc.collect()
            assert ref() is None
            guard.tick()
            await stream.send(b"x")

    run(backend, main)


# --- Closing ---


@EACH
def test_a_close_with_unread_bytes_does_not_cost_the_peer_its_answer(backend):
    """The peer reads all of it and then the end, not a reset, though nobody has read what it sent."""

    async def main():
        async with pair() as (stream, peer):
            raw = raw_of(stream)
            await stream.send(b"a" * 50_000)
            await leave_unread(stream, peer, b"unread" * 1000)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.aclose)
                assert await read_all(peer) == b"a" * 50_000
                peer.shutdown(socket.SHUT_WR)
            assert is_closed(raw)

    run(backend, main)


@EACH
def test_a_close_takes_no_longer_than_drain_timeout(backend):
    """A peer that neither reads nor closes holds aclose() up for drain_timeout, and no longer."""

    async def main():
        async with pair(Policy(drain_timeout=0.2)) as (stream, peer):
            raw = raw_of(stream)
            await leave_unread(stream, peer, b"unread")
            started = time.monotonic()
            await stream.aclose()
            assert 0.15 < time.monotonic() - started < PATIENCE
            assert is_closed(raw)

    run(backend, main)


@EACH
@pytest.mark.parametrize("fields", [{"drain_timeout": None}, {"mode": "observe"}])
def test_a_close_that_is_not_to_drain_does_not(backend, fields):
    """Without drain_timeout, or when only observing, aclose() is anyio's own: the peer is reset."""

    async def main():
        async with pair(Policy(**fields)) as (stream, peer):
            await leave_unread(stream, peer, b"unread")
            await stream.aclose()
            with pytest.raises(ConnectionResetError):
                peer.recv(1)

    run(backend, main)


@EACH
def test_an_upload_is_not_drained_to_its_end(backend):
    """After drain_bytes the stream is closed, whatever else the peer would send."""

    async def main():
        async with pair(Policy(drain_timeout=LONG, drain_bytes=1000)) as (stream, peer):
            await leave_unread(stream, peer, b"u" * 100_000)
            await stream.aclose()

    run(backend, main)


@EACH
@pytest.mark.parametrize("at_once", [True, False])
def test_a_cancelled_close_releases_the_descriptor_and_loses_no_answer(backend, guard, at_once):
    """The guard drains in its stead: the peer reads the answer and its end, and the descriptor is closed at once."""

    async def main():
        async with pair(Policy(drain_timeout=LONG)) as (stream, peer):
            raw = raw_of(stream)
            await stream.send(b"answer")
            await leave_unread(stream, peer, b"unread")
            with anyio.move_on_after(LONG) as scope:
                scope.deadline = anyio.current_time() + (-1 if at_once else 0.02)
                if at_once:
                    scope.cancel()
                    await stream.aclose()
                else:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(stream.aclose)
            assert scope.cancelled_caught
            assert is_closed(raw)
            assert await read_all(peer) == b"answer"

    run(backend, main)


@EACH
def test_a_close_while_another_task_waits_for_bytes_ends_that_wait(backend):
    """Nothing is unread then, so nothing is drained; the task that waits is told that the stream was closed."""

    async def main():
        async with pair(Policy(drain_timeout=LONG)) as (stream, peer), anyio.create_task_group() as tasks:
            waits = Parked(tasks, stream.receive)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
            await until(lambda: waits.error)
            assert type(waits.error) is anyio.ClosedResourceError
            assert peer.recv(1) == b""

    run(backend, main)


# --- A listener and its handlers ---


@contextlib.asynccontextmanager
async def serving(handle, policy=None):
    """Serves in the background, until the end of the block."""
    listener = await create_tcp_listener(local_host="127.0.0.1", policy=policy)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener
        tasks.cancel_scope.cancel()


def connected(listener):
    return socket.create_connection(("127.0.0.1", port_of(listener)), timeout=PATIENCE)


@EACH
def test_a_handler_that_returns_takes_its_stream_along(backend):
    """Even if somebody has kept it; and the name of its task is that of the handler."""

    async def main():
        kept, names = [], []

        async def handle(stream):
            kept.append((stream, raw_of(stream)))
            names.append(anyio.get_current_task().name)
            await stream.send(await stream.receive())

        async with serving(handle) as listener:
            with connected(listener) as peer:
                peer.sendall(b"hello")
                assert await read_all(peer) == b"hello"
            assert is_closed(kept[0][1])
            assert "handle" in names[0]

    run(backend, main)


@EACH
def test_a_handler_may_hand_its_stream_on(backend):
    """It says so by expect_open(): then the stream outlives it, as that of a chat server does."""

    async def main():
        members = []

        async def join(stream):
            stream.connection.expect_open("a member of the chat")
            members.append(stream)

        async with serving(join) as listener:
            with connected(listener) as peer:
                await until(lambda: members)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                await members[0].send(b"hello")
                assert await anyio.to_thread.run_sync(peer.recv, 10) == b"hello"
                await members[0].aclose()
                assert await read_all(peer) == b""

    run(backend, main)


@EACH
@pytest.mark.parametrize("is_expected", [False, True], ids=["", "expect_open"])
def test_a_handler_that_raises_takes_its_stream_along(backend, is_expected):
    """The error ends the task group, as with anyio's own listener, and the peer reads the end: nobody was handed it."""

    async def main():
        async def handle(stream):
            if is_expected:
                stream.connection.expect_open("a feed")
            raise LookupError

        async with await create_tcp_listener(local_host="127.0.0.1") as listener:
            peers = []

            async def connect():
                peers.append(connected(listener))

            with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the group raises when it is left
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(listener.serve, handle)
                    tasks.start_soon(connect)
            assert caught.group_contains(LookupError)
            with peers[0]:
                assert await read_all(peers[0]) == b""

    run(backend, main)


@EACH
@pytest.mark.parametrize("own_group", [True, False])
def test_a_handler_that_is_cancelled_takes_its_stream_along(backend, own_group):
    """A server that is stopped closes all that it served, at once; in its own task group or in a given one."""

    async def main():
        raws = []

        async def handle(stream):
            raws.append(raw_of(stream))
            await anyio.sleep_forever()

        async with await create_tcp_listener(local_host="127.0.0.1") as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, handle, *([] if own_group else [tasks]))
                peer = connected(listener)
                await until(lambda: raws)
                tasks.cancel_scope.cancel()
            with peer:
                assert is_closed(raws[0])
                assert await read_all(peer) == b""

    run(backend, main)


@pytest.mark.needs_books
@EACH
def test_what_is_served_is_known_by_the_line_that_made_the_listener(backend, guard):
    """The task that accepts has no line of the program on its stack, so the listener's is told."""

    async def main():
        async def handle(stream):
            await anyio.sleep_forever()

        async with serving(handle) as listener:
            with connected(listener):
                guard.tick()
                await until(lambda: guard.tick() or [r for r in guard.guard.registry.records() if r.terms])
                (record,) = [r for r in guard.guard.registry.records() if r.terms]
                assert "test_opening.py" in record.site.frames()[0]
                assert " in serving" in record.site.frames()[0]

    run(backend, main)


@EACH
def test_without_a_heartbeat_a_connection_has_one_task(backend):
    """Nothing runs beside the handler, and nothing of a heartbeat is made."""

    async def main():
        n_tasks = []

        async def handle(stream):
            n_tasks.append(len(anyio.get_running_tasks()))
            await stream.send(b"x")

        async with serving(handle) as listener:
            await anyio.wait_all_tasks_blocked()
            n_before = len(anyio.get_running_tasks())
            with connected(listener) as peer:
                assert await read_all(peer) == b"x"
            assert n_tasks == [n_before + 1]

    run(backend, main)


@EACH
@pytest.mark.parametrize("is_asked", [False, True])
def test_a_stream_that_is_closed_already_is_guarded_all_the_same(backend, is_asked):
    """A connection can be over before the program gets it: then its calls say so, and nothing of ours is raised.

    Nor if somebody asked for its socket before: uvloop then keeps an object for a descriptor that is no more.
    """

    async def main():
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            stream = await anyio.connect_tcp("127.0.0.1", port_of(listener))
            if is_asked:
                assert raw_of(stream).fileno() >= 0
            await stream.aclose()
            guarded = guard_stream(stream)
            assert guarded.connection.state == "closed"
            with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
                await guarded.receive()
            await guarded.aclose()

    run(backend, main)


# --- TLS ---


@EACH
def test_tls_on_top_of_a_guarded_stream(backend, guard):
    """TLSListener and TLSStream work on it, give the connection through TLS, and tell why the guard ended it."""

    async def main():
        errors = []

        async def handle(stream):
            assert stream.extra(GuardedAttribute.connection).state == "open"
            await stream.send(await stream.receive())
            errors.append(await parked_on(stream.receive))

        policy = Policy(idle_timeout=5)
        async with await create_tcp_listener(local_host="127.0.0.1", policy=policy) as plain:
            listener = TLSListener(plain, server_tls(), standard_compatible=False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, handle)
                client = await anyio.connect_tcp(
                    "127.0.0.1", port_of(plain), ssl_context=client_tls(), tls_standard_compatible=False
                )
                async with client:
                    await client.send(b"secret")
                    assert await client.receive() == b"secret"
                    await until(lambda: errors, guard=guard, after=3)
                    with pytest.raises(anyio.EndOfStream):
                        await client.receive()
                tasks.cancel_scope.cancel()
        assert "(idle_timeout=5)" in cause_of(errors[0])

    run(backend, main)


@EACH
@pytest.mark.parametrize("compatible", [True, False])
def test_a_guarded_stream_on_top_of_tls(backend, guard, compatible):
    """guard_stream takes a TLSStream: bytes, attributes, ends and reasons are as without TLS."""

    async def main():
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as plain:
            served = []

            async def handle(stream):
                guarded = guard_stream(
                    await TLSStream.wrap(stream, ssl_context=server_tls(), standard_compatible=compatible),
                    Policy(idle_timeout=5),
                )
                assert guarded.extra(TLSAttribute.tls_version).startswith("TLS")
                await guarded.send(await guarded.receive())
                served.append(await parked_on(guarded.receive))
                assert is_closed(raw_of(guarded))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(plain.serve, handle)
                client = await connect_tcp(
                    "127.0.0.1",
                    port_of(plain),
                    ssl_context=client_tls(),
                    tls_standard_compatible=compatible,
                    policy=Policy(drain_timeout=0.2),
                )
                await client.send(b"secret")
                assert await client.receive() == b"secret"
                await until(lambda: served, guard=guard, after=3)
                await anyio.aclose_forcefully(client)
                tasks.cancel_scope.cancel()
        assert "(idle_timeout=5)" in cause_of(served[0])

    run(backend, main)


@EACH
def test_a_peer_that_never_says_goodbye_does_not_hold_up_the_close_of_tls(backend):
    """The answer to our close_notify is waited for no longer than drain_timeout."""

    async def main():
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as plain:

            async def handle(stream):
                async with stream:
                    await TLSStream.wrap(stream, ssl_context=server_tls())
                    await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(plain.serve, handle)
                client = await connect_tcp(
                    "127.0.0.1", port_of(plain), ssl_context=client_tls(), policy=Policy(drain_timeout=0.2)
                )
                raw = raw_of(client)
                await client.aclose()
                assert is_closed(raw)
                tasks.cancel_scope.cancel()

    run(backend, main)


# --- Heartbeats ---


PING = Heartbeat(b"PING\n", 0.05, timeout=LONG, expect=b"PONG\n")


@EACH
@pytest.mark.parametrize("size", [65536, 3])
def test_a_peer_is_asked_while_the_program_waits_and_its_answer_is_taken_out(backend, size):
    """PING is sent in a silence, PONG never reaches the program, and its round trip is known."""

    async def main():
        async with pair(Policy(heartbeat=PING)) as (stream, peer):
            got = b""

            def answer():
                assert peer.recv(5) == b"PING\n"
                peer.sendall(b"PONG\nline\n")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, answer)
                while len(got) < 5:
                    data = await stream.receive(size)
                    assert 0 < len(data) <= size
                    got += data
            assert got == b"line\n"
            assert stream.connection.rtt >= 0

    run(backend, main)


@EACH
def test_a_peer_that_answers_nothing_is_lost(backend, guard):
    """Who waits for it is told so, with the seconds; and the log has heartbeat_lost."""

    async def main():
        silent = Heartbeat(b"PING\n", 0.02, timeout=0.05, expect=b"PONG\n")
        async with pair(Policy(heartbeat=silent)) as (stream, _), anyio.create_task_group() as tasks:
            guard.tick()
            waits = Parked(tasks, stream.receive)
            while waits.error is None:
                await ticks(guard, after=0.25, n=1)
            assert "heartbeat" in cause_of(waits.error)
            assert [event.name for event in guard.told("heartbeat_lost")] == ["heartbeat_lost"]

    run(backend, main)


@EACH
def test_a_server_that_only_sends_beats_too(backend):
    """What a listener serves has a task for it, so a server of events keeps its connection alive while it is silent."""

    async def main():
        events = Policy(heartbeat=Heartbeat.sse(every=0.02))

        async def handle(stream):
            await stream.send(b"data: 1\n\n")
            await anyio.sleep_forever()

        async with serving(handle, events) as listener:
            with connected(listener) as peer:
                got = b""
                while got.count(b":\n\n") < 3:
                    got += await anyio.to_thread.run_sync(peer.recv, 100)
                assert got.startswith(b"data: 1\n\n:\n\n:\n\n")

    run(backend, main)


@EACH
def test_the_task_that_beats_ends_with_its_connection(backend):
    """As soon as the handler has returned there is no more task than before."""

    async def main():
        async def handle(stream):
            await stream.send(b"x")

        policy = Policy(heartbeat=Heartbeat.sse(every=LONG))
        async with serving(handle, policy) as listener:
            await anyio.wait_all_tasks_blocked()
            n_before = len(anyio.get_running_tasks())
            with connected(listener) as peer:
                assert await read_all(peer) == b"x"
            await until(lambda: len(anyio.get_running_tasks()) == n_before)

    run(backend, main)


@EACH
def test_no_heartbeat_goes_into_the_midst_of_a_message(backend):
    """While connection.sending() is open nothing is sent but the program's parts."""

    async def main():
        events = Policy(heartbeat=Heartbeat.sse(every=0.01))
        enough = anyio.Event()

        async def handle(stream):
            with stream.connection.sending():
                for part in (b"one, ", b"two, ", b"three\n"):
                    await stream.send(part)
                    await anyio.sleep(0.05)
            await enough.wait()

        async with serving(handle, events) as listener:
            with connected(listener) as peer:
                got = b""
                while b":\n\n" not in got:
                    got += await anyio.to_thread.run_sync(peer.recv, 100)
                enough.set()
            assert got.startswith(b"one, two, three\n:\n\n")

    run(backend, main)


class Slow(anyio.abc.ByteStream):
    """A layer that takes its time to send."""

    def __init__(self, below):
        self.transport_stream, self.n_sending = below, 0

    @property
    def extra_attributes(self):
        return self.transport_stream.extra_attributes

    async def receive(self, max_bytes=65536):
        return await self.transport_stream.receive(max_bytes)

    async def send(self, item):
        self.n_sending += 1
        await anyio.sleep(0.03)
        await self.transport_stream.send(item)
        self.n_sending -= 1

    async def send_eof(self):
        await self.transport_stream.send_eof()

    async def aclose(self):
        await self.transport_stream.aclose()


@EACH
def test_a_program_that_sends_is_never_told_that_the_heartbeat_is_sending(backend):
    """Its message waits until the heartbeat that is under way has been sent, and both arrive whole."""

    async def main():
        async with pair() as (plain, peer):
            slow = Slow(plain.unguarded)
            stream = guard_stream(slow, Policy(heartbeat=Heartbeat(b"<beat>", 0.01)))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive)
                await until(lambda: slow.n_sending == 1)
                await stream.send(b"message")
                tasks.cancel_scope.cancel()
            got = recv_exactly(peer, 13)
            while b"message" not in got:  # a second beat was due before it could go
                got += peer.recv(99)
            assert re.fullmatch(rb"(<beat>)+message[<beat>]*", got)

    run(backend, main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])  # uvloop tells nobody of its transports
def test_a_layer_that_hides_its_stream_is_guarded_by_its_socket(backend, guard):
    """All that is needed of a layer of the program's is SocketAttribute.raw_socket."""

    class Hiding(Slow):
        def __init__(self, below):
            self.hidden, self.n_sending = below, 0

        @property
        def extra_attributes(self):
            return self.hidden.extra_attributes

        async def receive(self, max_bytes=65536):
            return await self.hidden.receive(max_bytes)

        async def aclose(self):
            await self.hidden.aclose()

    async def main():
        async with pair() as (plain, peer), anyio.create_task_group() as tasks:
            raw = raw_of(plain)
            waits = Parked(tasks, guard_stream(Hiding(plain.unguarded), Policy(idle_timeout=5)).receive)
            await until(lambda: waits.error, guard=guard, after=3)
            assert "(idle_timeout=5)" in cause_of(waits.error)
            assert is_closed(raw)
            assert peer.recv(1) == b""

    run(backend, main)


@EACH
def test_a_heartbeat_that_was_begun_is_sent_whole(backend):
    """A receive() that is cancelled then waits until it is out, as half of it would spoil the stream."""

    async def main():
        async with pair() as (plain, peer):
            slow = Slow(plain.unguarded)
            stream = guard_stream(slow, Policy(heartbeat=Heartbeat(b"<beat>", 0.01)))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive)
                await until(lambda: slow.n_sending == 1)
                tasks.cancel_scope.cancel()
            assert slow.n_sending == 0
            got = recv_exactly(peer, 6)
            assert got == b"<beat>" * (len(got) // 6)

    run(backend, main)


@EACH
def test_two_tasks_that_send_are_refused_with_a_heartbeat_too(backend):
    """BusyResourceError means the same as without one."""

    async def main():
        async with pair(Policy(heartbeat=Heartbeat(b"x", LONG))) as (stream, _), anyio.create_task_group() as tasks:
            waits = Parked(tasks, stream.send, b"b" * 50_000_000)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.send(b"x")
            assert waits.error is None
            tasks.cancel_scope.cancel()

    run(backend, main)


@EACH
def test_nothing_is_sent_after_a_message_that_was_cut_off(backend):
    """A send that was cancelled may have left half a message, so no heartbeat follows it until another was sent."""

    async def main():
        async with pair(Policy(heartbeat=Heartbeat(b"<beat>", 0.01))) as (stream, peer):
            large = b"h" * 50_000_000
            with anyio.move_on_after(0.05) as scope:
                await stream.send(large)
            assert scope.cancelled_caught
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive)
                got = []

                def read():
                    peer.settimeout(0.3)
                    with contextlib.suppress(TimeoutError):
                        while True:
                            got.append(peer.recv(1 << 20))

                await anyio.to_thread.run_sync(read)
                assert set(b"".join(got)) == set(b"h")
                tasks.cancel_scope.cancel()

    run(backend, main)


@EACH
def test_nothing_is_sent_after_our_fin(backend):
    """After send_eof() there is no place for a heartbeat any more; what the peer sends is still received."""

    async def main():
        async with pair(Policy(heartbeat=Heartbeat(b"<beat>", 0.01))) as (stream, peer):
            await stream.send_eof()
            with anyio.move_on_after(0.1):
                await stream.receive()
            assert await read_all(peer) == b""
            peer.sendall(b"still here")
            assert await stream.receive() == b"still here"

    run(backend, main)


@EACH
def test_an_answer_that_nobody_has_read_yet_loses_nobody(backend, guard):
    """A served program that does not receive owes the silence itself, wherever the answer waits for it."""

    async def main():
        question = Heartbeat(b"PING\n", 0.02, timeout=1.0, expect=b"PONG\n")
        streams = []

        async def handle(stream):
            streams.append(stream)
            await anyio.sleep_forever()

        async with serving(handle, Policy(heartbeat=question)) as listener:
            with connected(listener) as peer:
                assert await anyio.to_thread.run_sync(peer.recv, 5) == b"PING\n"
                peer.sendall(b"PONG\n")
                await anyio.sleep(1.5)
                guard.tick()
                assert streams[0].connection.ended_by is None

    run(backend, main)


@EACH
def test_what_is_held_back_as_a_possible_answer_comes_before_the_end(backend):
    """Bytes that looked like the beginning of an answer are the program's if the stream ends with them."""

    async def main():
        async with pair(Policy(heartbeat=PING)) as (stream, peer):
            got = []

            def answer():
                assert peer.recv(5) == b"PING\n"
                peer.sendall(b"PON")
                peer.shutdown(socket.SHUT_WR)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, answer)
                got = [data async for data in stream]
            assert b"".join(got) == b"PON"

    run(backend, main)


@EACH
def test_a_payload_that_fails_ends_the_heartbeat_and_nothing_else(backend, guard):
    """A function of the program's that raises is told of once; the connection goes on."""

    def payload():
        raise LookupError("no payload")

    async def main():
        async with pair(Policy(heartbeat=Heartbeat(payload, 0.01))) as (stream, peer):
            with anyio.move_on_after(0.1):
                await stream.receive()
            peer.sendall(b"x")
            assert await stream.receive() == b"x"

    run(backend, main)
    (failure,) = guard.told("guard_failed")
    assert "no payload" in failure.message


# --- Where the kernel keeps no books ---


@pytest.fixture
def portable(monkeypatch):
    """Has the wrappers keep the books, as they do off Linux."""
    monkeypatch.setattr(terms, "keeps_books", lambda sock: False)


@EACH
def test_without_the_kernels_books_the_stream_keeps_them(backend, portable):
    """Bytes and the end are counted, a large send in pieces, and all arrives."""

    async def main():
        async with pair() as (stream, peer):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, b"s" * 1_000_000)
                assert len(await anyio.to_thread.run_sync(recv_exactly, peer, 1_000_000)) == 1_000_000
            peer.sendall(b"123")
            assert await stream.receive() == b"123"
            await stream.send(b"")
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            assert (stream.connection.bytes_received, stream.connection.bytes_sent) == (3, 1_000_000)
            assert time.monotonic() - stream.connection.last_update < PATIENCE

    run(backend, main)


def recv_exactly(peer, size):
    got = b""
    while len(got) < size:
        got += peer.recv(1 << 20)
    return got


@EACH
def test_without_the_kernels_books_a_reset_closes_on_the_very_call(backend, portable):
    """As with them."""

    async def main():
        async with pair() as (stream, peer):
            raw = raw_of(stream)
            reset(peer)
            assert type(await parked_on(stream.receive)) is anyio.BrokenResourceError
            assert is_closed(raw)

    run(backend, main)


@EACH
def test_without_the_kernels_books_a_failed_send_is_noted(backend, portable):
    """A send to a peer that has reset fails as ever, and so does each one after it; our FIN goes its way, too."""

    async def main():
        async with pair() as (stream, peer):
            reset(peer)
            with anyio.fail_after(PATIENCE):
                while (error := await parked_on(stream.send, b"x")) is None:  # noqa: ASYNC110 - as in `until`
                    await anyio.sleep(0.001)
            assert type(error) is anyio.BrokenResourceError
            assert stream.connection.ended_by is None
        async with pair() as (stream, peer):
            await stream.send_eof()
            assert await read_all(peer) == b""

    run(backend, main)


@EACH
def test_a_unix_stream_can_be_guarded(backend, tmp_path):
    """The kernel keeps no books of it, so the stream does; a strict policy closes at its end."""

    async def main():
        async with await anyio.create_unix_listener(tmp_path / "s") as listener:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(PATIENCE)
                peer.connect(str(tmp_path / "s"))
                stream = guard_stream(await listener.accept(), STRICT)
                raw = raw_of(stream)
                assert not keeps_books(raw)
                peer.sendall(b"hello")
                assert await stream.receive() == b"hello"
                await stream.send(b"you")
                assert peer.recv(10) == b"you"
                peer.shutdown(socket.SHUT_WR)
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
                assert is_closed(raw)
                assert (stream.connection.bytes_received, stream.connection.bytes_sent) == (5, 3)

    run(backend, main)


@EACH
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_without_the_kernels_books_the_guard_ends_it_and_says_why(backend, guard, portable, tmp_path, family):
    """A receive() that waits is told so, also on a Unix socket, and the descriptor is released."""

    async def main():
        policy = Policy(idle_timeout=5)
        if family == "tcp":
            listener = await create_tcp_listener(local_host="127.0.0.1")
            peer = connected(listener)
            accepted = (await listener.listeners[0].accept()).unguarded
        else:
            listener = await anyio.create_unix_listener(tmp_path / "s")
            peer = socket.socket(socket.AF_UNIX)
            peer.settimeout(PATIENCE)
            peer.connect(str(tmp_path / "s"))
            accepted = await listener.accept()
        async with listener, anyio.create_task_group() as tasks:
            with peer:
                stream = guard_stream(accepted, policy)
                raw = raw_of(stream)
                waits = Parked(tasks, stream.receive)
                for _ in range(8):
                    await ticks(guard, after=1, n=1)
                await until(lambda: waits.error)
                assert "(idle_timeout=5)" in cause_of(waits.error)
                assert is_closed(raw)
                assert peer.recv(1) == b""

    run(backend, main)


@EACH
def test_without_the_kernels_books_a_parked_descriptor_is_released_too(backend, guard, portable):
    """As with them: whoever keeps the stream does not keep the descriptor."""

    async def main():
        async with pair(Policy(idle_timeout=5)) as (stream, peer):
            raw = raw_of(stream)
            for _ in range(8):
                await ticks(guard, after=1, n=1)
            await until(lambda: is_closed(raw))
            assert peer.recv(1) == b""
            assert "(idle_timeout=5)" in cause_of(await parked_on(stream.receive))

    run(backend, main)


def test_trio_as_the_guest_of_asyncio(guard):
    """The guard meets an event loop there that has no transport of it, and still has the descriptor released."""
    trio = pytest.importorskip("trio")
    asyncio = pytest.importorskip("asyncio")

    async def in_trio():
        async with pair(Policy(idle_timeout=5)) as (stream, peer):
            raw = raw_of(stream)
            await until(lambda: is_closed(raw), guard=guard, after=3)
            assert peer.recv(1) == b""
            assert "(idle_timeout=5)" in cause_of(await parked_on(stream.receive))

    async def host():
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        outcomes = []

        def end(outcome):
            outcomes.append(outcome)
            done.set()

        trio.lowlevel.start_guest_run(in_trio, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=end)
        await done.wait()
        outcomes[0].unwrap()

    asyncio.run(host())
