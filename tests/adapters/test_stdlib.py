"""What `socket.socket` opens is adopted and behaves as ever; the dead are shed where nobody is made to wait."""

import _thread
import asyncio
import errno
import os
import resource
import socket
import socketserver
import ssl
import threading

import pytest

from guarded import Driven, accepted_by_two_lines, driven
from loopback import connect, listen, reset, state_of
from netstat import CLOSE_WAIT, wait_for
from servers import port_of
from sockguard.adapters import stdlib
from sockguard.adapters.wrapping import Wrappings
from waiting import eventually


@pytest.fixture
def put():
    """Puts a guard that is driven by hand under the names of the module `socket`."""
    undone: list[Wrappings] = []

    def put(d: Driven) -> Driven:
        wrappings = Wrappings()
        undone.append(wrappings)
        for hook in stdlib.hooks(d.guard):
            wrappings.add(hook)
        return d

    yield put
    for wrappings in undone:
        wrappings.undo()


@pytest.fixture
def guarded(put):
    with driven() as d:
        yield put(d)


def sides(d: Driven) -> dict[int, bool]:
    """Tells of each adopted descriptor whether it was accepted."""
    d.tick()
    return {fd: record.is_server for fd, record in d.guard.registry.by_fd.items()}


# --- Adopted ---


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_both_sides_are_adopted_with_the_line_that_opened_them(guarded, family):
    """What was accepted as a server's, what connected as a client's; listeners not at all."""
    with connect(family) as c:
        assert sides(guarded) == {c.server.fileno(): True, c.client.fileno(): False}
        by_fd = guarded.guard.registry.by_fd
        assert "loopback.py" in by_fd[c.server.fileno()].site.frames()[0]
        assert by_fd[c.client.fileno()]() is c.client


def test_a_connect_that_does_not_wait_is_adopted(guarded):
    """BlockingIOError is how it begins; asking how far it is announces it once more, which changes nothing."""
    with listen() as listener, socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect(listener.getsockname())
        assert eventually(lambda: client.connect_ex(listener.getsockname()) in (0, errno.EISCONN))
        assert sides(guarded) == {client.fileno(): False}
        record = guarded.guard.registry.by_fd[client.fileno()]
        client.connect_ex(listener.getsockname())
        guarded.tick()
        assert guarded.guard.registry.by_fd[client.fileno()] is record


def test_connect_ex_is_adopted_and_a_refusal_is_not(guarded):
    """Its result is that of the original, either way."""
    with listen() as listener, socket.socket() as good, socket.socket() as bad:
        address = listener.getsockname()
        assert good.connect_ex(address) == 0
        listener.close()
        assert bad.connect_ex(address) == errno.ECONNREFUSED
        assert sides(guarded) == {good.fileno(): False}


def test_exceptions_are_the_programs_own(guarded):
    """A refusal raises as ever; nothing is adopted, nothing told."""
    with listen() as listener:
        address = listener.getsockname()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
    with listen() as listener:
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.settimeout(0.001)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert (sides(guarded), guarded.events) == ({}, [])


def test_other_sockets_are_none_of_ours(guarded, tmp_path):
    """Unix sockets and datagrams go through the same functions and are not kept."""
    path = os.fspath(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        with listener.accept()[0], socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect(("127.0.0.1", 9))
            assert (sides(guarded), guarded.events) == ({}, [])


def test_subclasses_are_adopted(guarded):
    """A socket class of the program's, with an accept() of its own that calls ours."""

    class Own(socket.socket):
        def accept(self):
            return (*super().accept(), "more")

    with Own() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            server, _, more = listener.accept()
            with server:
                assert more == "more"
                assert sides(guarded) == {server.fileno(): True, client.fileno(): False}


def test_socketserver_goes_through_it(guarded):
    """Nothing of it is wrapped: it calls `socket.accept`."""
    seen = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            seen.append((self.request.fileno(), sides(guarded)))

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        with socket.create_connection(server.server_address):
            server.handle_request()
        [(fd, found)] = seen
        assert found[fd] is True


def test_asyncio_goes_through_it(guarded):
    """Its loops call `socket.accept` and `socket.connect`; the loop is noted, as it owns the connections."""

    async def talk():
        async def keep(reader, writer):
            kept.append(writer)

        kept = []
        served = await asyncio.start_server(keep, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*served.sockets[0].getsockname())
        while not kept:  # noqa: ASYNC110 - accepted by the loop, at its own time
            await asyncio.sleep(0.001)
        found = sides(guarded)
        loops = {record.loop.ref() for record in guarded.guard.registry.records()}
        assert loops == {asyncio.get_running_loop()}
        fds = {one.get_extra_info("socket").fileno(): one is kept[0] for one in (*kept, writer)}
        for one in (*kept, writer):
            one.transport.abort()
        served.close()
        await asyncio.sleep(0)
        assert found == fds

    asyncio.run(talk())


def test_what_tls_wraps_is_adopted_under_the_same_number(guarded):
    """SSLSocket takes the descriptor over, on either side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with listen() as listener, context.wrap_socket(socket.socket(), do_handshake_on_connect=False) as client:
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            assert sides(guarded) == {server.fileno(): True, client.fileno(): False}


def test_each_line_that_accepts_from_a_listener_is_told_as_such(guarded):
    """Of two lines for one listener, each connection has its own; a line that does so again has the same site."""
    with listen() as listener:
        sites = accepted_by_two_lines(guarded, listener)
    assert [site.frames()[0].rpartition(" ")[2] for site in sites] == ["here", "there", "there", "here"]
    assert sites[1] is sites[2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what accept() gives there
@pytest.mark.allow_socket_leaks("nobody can keep what accept() gives there", count=1)
def test_a_thread_that_has_no_other_frame_accepts(guarded):
    """Begun in C, with accept() for its function; so nobody keeps what it gives."""
    with listen() as listener, socket.create_connection(listener.getsockname()) as client:
        _thread.start_new_thread(listener.accept, ())
        assert client.recv(1) == b""
    assert len(guarded.guard.registry.opened) == 2
    assert guarded.told("guard_failed") == []


def test_many_threads_accept_at_once(guarded):
    """No lock is in their way, and none is lost."""
    with listen(backlog=64) as listener:
        address, servers = listener.getsockname(), []
        clients = [socket.create_connection(address) for _ in range(40)]
        threads = [threading.Thread(target=lambda: servers.append(listener.accept()[0])) for _ in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = sides(guarded)
        assert found == {s.fileno(): True for s in servers} | {c.fileno(): False for c in clients}
        for sock in (*servers, *clients):
            sock.close()


# --- Out of descriptors ---


@pytest.mark.usefixtures("no_garbage")  # a number that is freed meanwhile would be below the limit
def test_a_refused_accept_is_told_to_the_guard_and_raised(guarded):
    """EMFILE is the program's to handle; the guard takes note that descriptors are short."""
    with listen() as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(False)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(0)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            os.close(spare)
        assert guarded.guard.descriptors.refused_at is not None
        listener.accept()[0].close()


# --- Shedding ---


def knock(listener: socket.socket, how: str) -> socket.socket:
    """Connects and goes, before anybody accepts; returns the client."""
    client = socket.create_connection(listener.getsockname())
    if how == "asks":
        client.sendall(b"question")
    port, mine = port_of(listener), port_of(client)
    if how == "resets":
        reset(client)
        wait_for(port, remote_port=mine, state=1, count=0)
    elif how != "stays":
        client.close()
        wait_for(port, remote_port=mine, state=CLOSE_WAIT)
    return client


@pytest.fixture
def shedding(put):
    with driven(shed_dead_on_accept="always") as d:
        yield put(d)


def test_a_listener_that_does_not_wait_passes_over_the_dead(shedding):
    """Who has gone without a word is closed; the first that is alive, or has left a question, is served."""
    with listen() as listener:
        listener.setblocking(False)
        for how in ("goes", "goes", "asks"):
            knock(listener, how)
        with knock(listener, "stays") as alive:
            knock(listener, "goes")
            with listener.accept()[0] as first, listener.accept()[0] as second:
                assert first.recv(8) == b"question"
                assert second.getpeername() == alive.getsockname()


@pytest.mark.usefixtures("no_garbage")
def test_nobody_there_after_all_is_what_such_a_program_expects(shedding):
    """All were dead: BlockingIOError, as if nobody had knocked; their descriptors are free again."""
    with listen() as listener:
        listener.setblocking(False)
        with connect():
            pass  # with the first connection the guard takes descriptors of its own
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            knock(listener, "goes")
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_listener_that_waits_sheds_nobody(shedding, timeout):
    """It could wait for ever for the next one, where its program knew of somebody."""
    with listen() as listener:
        listener.settimeout(timeout)
        knock(listener, "goes")
        server, _ = listener.accept()
        with server:
            assert state_of(server) == CLOSE_WAIT


def test_nobody_is_shed_without_need(guarded):
    """By default only under pressure: one that half-closes at once and waits looks just the same."""
    with listen() as listener:
        listener.setblocking(False)
        knock(listener, "goes")
        server, _ = listener.accept()
        with server:
            assert state_of(server) == CLOSE_WAIT
