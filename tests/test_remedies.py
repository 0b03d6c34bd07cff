"""Each remedy that guards a running program: the trouble without sockguard, and the same program cured by it.

The numbers are those of the list of remedies that the project began with. Each program runs
twice, bare and under `sockguard run`, and both are told the same. When the guarded one is cured,
the bare one must be in trouble still, so nothing here depends on how long a cure takes.
"""

# ruff: noqa: T201 - here the programs are functions, and what they print is compared

import asyncio
import contextlib
import errno
import fcntl
import os
import resource
import select
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from children import start_child
from commands import needs_root, run
from differential.programs import Running, running
from loopback import reset
from netstat import CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, wait_for
from players import Players
from servers import port_of, teach
from waiting import eventually

pytestmark = pytest.mark.slow

PATIENCE = 30.0
"""Seconds in which a cure must have come; they take one to three."""


class Both(NamedTuple):
    """One program twice, and the ports that they listen on."""

    bare: Running
    guarded: Running
    ports: tuple[int, int]


@contextlib.contextmanager
def both(program: Callable[[], None], *options: object, words: tuple[object, ...] = ()) -> Iterator[Both]:
    """Starts a program bare and guarded."""
    with running(program, None, *words) as bare, running(program, options, *words) as guarded:
        yield Both(bare, guarded, (bare.port(), guarded.port()))


@contextlib.contextmanager
def clients(ports: tuple[int, ...]) -> Iterator[list[socket.socket]]:
    """Connects to each port."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for port in ports]


def accepted(client: socket.socket) -> None:
    """Waits until the program has taken this connection."""
    wait_for(client.getpeername()[1], remote_port=port_of(client), inode=True)


def hears_end(client: socket.socket) -> bool:
    """Tells whether the other end has closed, whatever it sent before."""
    client.settimeout(0)
    try:
        while client.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def ends(client: socket.socket) -> bool:
    """Waits for the other end's FIN or RST."""
    return eventually(lambda: hears_end(client), timeout=PATIENCE)


def sockets_of(program: Running) -> int:
    """Counts the sockets of a process, without Unix sockets: the guard takes some, with the first connection."""
    folder, links = f"/proc/{program.pid}", []
    for fd in os.listdir(f"{folder}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"{folder}/fd/{fd}"))
    unix = {f"socket:[{line.split()[6]}]" for line in Path(folder, "net/unix").read_text().splitlines()[1:]}
    return sum(link.startswith("socket:") and link not in unix for link in links)


def told(program: Running, words: str) -> bool:
    """Waits until the guard's log holds these words."""
    return eventually(lambda: words in program.errors(), timeout=PATIENCE)


# Programs


def listen(backlog=128):
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    print(listener.getsockname()[1], flush=True)
    return listener


def serve_in_threads(serve):
    """Accepts for ever, and keeps every connection; `serve` runs in a thread of its own."""
    listener, kept = listen(), []
    while True:
        connection, _ = listener.accept()
        kept.append(connection)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def ignores_eof():
    """Reads the EOF, and waits for something else."""

    def serve(connection):
        while data := connection.recv(100):
            connection.sendall(data)
        threading.Event().wait()

    serve_in_threads(serve)


def never_reads():
    """Takes the connection, and works on something else."""
    serve_in_threads(lambda _: threading.Event().wait())


def fails_on_the_way():
    """Raises an exception between the last read and the close; a list keeps the connection."""
    threading.excepthook = lambda _: None

    def serve(connection):
        while data := connection.recv(100):
            connection.sendall(data)
        raise RuntimeError
        connection.close()

    serve_in_threads(serve)


def turns_in_circles():
    """Has a loop that EOF does not end."""

    def serve(connection):
        while True:
            connection.sendall(connection.recv(100))
            time.sleep(0.001)

    serve_in_threads(serve)


def forgets_in_a_loop():
    """A selectors loop that takes a connection out of the selector at EOF, and does not close it."""
    listener, poll, connections = listen(), select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
            elif data := connections[fd].recv(100):
                connections[fd].sendall(data)
            else:
                poll.unregister(fd)


async def serve_in_asyncio(handler, **options):
    server = await asyncio.start_server(handler, "127.0.0.1", 0, **options)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def keeps_its_writers():
    """An asyncio handler that waits for something else after the EOF, and keeps its writer."""
    kept = []

    async def serve(reader, writer):
        kept.append(writer)
        while data := await reader.read(100):
            writer.write(data)
        await asyncio.Event().wait()

    asyncio.run(serve_in_asyncio(serve))


def pauses():
    """An asyncio protocol that pauses reading, and never goes on: the loop does not watch the socket at all."""
    kept = []

    class Paused(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            kept.append(transport)

    async def main():
        server = await asyncio.get_running_loop().create_server(Paused, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())


def blocks_its_loop():
    """An event loop that a handler blocks as soon as it is asked to."""
    kept = []

    async def serve(reader, writer):
        kept.append(writer)
        if await reader.read(100) == b"block":
            writer.write(b"blocking")
            await writer.drain()
            blocks_here()

    def blocks_here():
        time.sleep(600)

    asyncio.run(serve_in_asyncio(serve))


def echoes_and_ticks():
    """Sends back what it reads; if told to by a word, it also sends a dot five times a second."""

    def tick(connection):
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b".")
                time.sleep(0.2)

    def serve(connection):
        if len(sys.argv) > 1:
            threading.Thread(target=tick, args=(connection,), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    serve_in_threads(serve)


def takes_uploads():
    """Reads, and answers nothing."""

    def serve(connection):
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass

    serve_in_threads(serve)


def answers_when_told():
    """Reads the question up to the FIN, and answers when a line comes on standard input."""
    connection, _ = listen().accept()
    while connection.recv(100):
        pass
    sys.stdin.readline()
    with contextlib.suppress(OSError):
        connection.sendall(b"answer")
    connection.close()


def forks():
    """A child and its parent hold the connection; the parent closes it when told, and the child never does."""
    connection, _ = listen().accept()
    parent = os.getpid()
    if not os.fork():
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(0)
    while sys.stdin.readline() == "close\n":
        connection.close()
        print("closed", flush=True)


def is_stuck():
    """Handles one connection until a line comes on standard input, and then accepts the rest, one after the other."""
    listener = listen(int(sys.argv[1]))
    first, _ = listener.accept()
    sys.stdin.readline()
    first.close()
    listener.setblocking(False)
    while True:
        select.select([listener], [], [])
        with contextlib.suppress(BlockingIOError):
            connection, _ = listener.accept()
            connection.setblocking(True)
            print("live" if connection.recv(100) else "dead", flush=True)
            connection.close()


def runs_out():
    """A leaking asyncio server with 40 descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    kept = []

    async def serve(reader, writer):
        kept.append(writer)
        while data := await reader.read(100):
            writer.write(data)
        await asyncio.Event().wait()

    asyncio.run(serve_in_asyncio(serve))


def tells_keepalive():
    """Prints the keepalive of three connections when asked: accepted, made, and one that the program has set itself."""
    listener = listen()

    def tell(sock):
        return [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)] + [
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]

    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    chosen = socket.create_connection(listener.getsockname())
    chosen.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    chosen.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    while sys.stdin.readline():
        print(tell(server), tell(client), tell(chosen), flush=True)


def loses_its_cable():
    """In a network namespace of its own: connects to itself, and then the network goes down for ever."""
    up(is_up=True)
    listener = listen()
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.sendall(b"hello")
    print(server.recv(100), flush=True)
    up(is_up=False)
    try:
        server.recv(100)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)


def up(*, is_up):
    """Turns the loopback interface on or off: SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP of netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name, flags = struct.unpack("16sH22x", fcntl.ioctl(sock, 0x8913, struct.pack("16sH22x", b"lo", 0)))
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", name, flags | 1 if is_up else flags & ~1))


# 1, 3, 12, 18: the peer has hung up, and nobody closes

FORGETFUL = {
    program.__name__: program
    for program in (
        ignores_eof,
        never_reads,
        fails_on_the_way,
        turns_in_circles,
        forgets_in_a_loop,
        keeps_its_writers,
        pauses,
    )
}


@pytest.fixture(scope="module")
def at_once() -> Iterator[Callable[..., None]]:
    """Gives a function that checks one of several cases; with the first of them all begin, as they mostly wait."""
    with Players(6) as players:
        games = {}

        def check_one(check, cases, name):
            if check not in games:
                games[check] = {name: players.submit(check, case) for name, case in cases.items()}
            games[check][name].result()

        yield check_one


@pytest.mark.parametrize("name", FORGETFUL)
def test_peer_that_hung_up(name, at_once):
    """1, 3, 12: whatever keeps a program from closing, the peer gets its FIN and CLOSE_WAIT ends.

    18: with it ends the peer's FIN_WAIT2.
    """
    at_once(check_hung_up, FORGETFUL, name)


def check_hung_up(program):
    with both(program, "--fin-timeout", 0.5) as (bare, guarded, ports), clients(ports) as (sick, cured):
        for client in (sick, cured):
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
        wait_for(ports[0], state=CLOSE_WAIT, inode=True)
        assert ends(cured)
        wait_for(ports[1], state=CLOSE_WAIT, count=0)
        wait_for(port_of(cured), state=FIN_WAIT2, count=0)
        assert not hears_end(sick)
        wait_for(ports[0], state=CLOSE_WAIT, inode=True)
        wait_for(port_of(sick), state=FIN_WAIT2)
        assert "CLOSE_WAIT" in run("states", "--pid", bare.pid).out
        assert "CLOSE_WAIT" not in run("states", "--pid", guarded.pid).out


@pytest.mark.parametrize("program", [keeps_its_writers, pauses], ids=lambda program: program.__name__)
def test_descriptor_of_an_event_loop(program):
    """1, 3: where an event loop owns the connection, its descriptor comes back as well."""
    with both(program, "--fin-timeout", 0.5) as (bare, guarded, ports):
        before = [eventually(lambda program=program: sockets_of(program)) for program in (bare, guarded)]
        with clients(ports) as (sick, cured):
            for client in (sick, cured):
                accepted(client)
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
            wait_for(ports[0], state=CLOSE_WAIT, inode=True)
            eventually(lambda: sockets_of(guarded) == before[1], timeout=PATIENCE)
            assert sockets_of(bare) == before[0] + 1


def test_strict_rule():
    """1: with half_close="close" the end comes as soon as the EOF is read, whatever `fin_timeout` says."""
    with (
        both(ignores_eof, "--half-close", "close", "--fin-timeout", 600) as (_, _, ports),
        clients(ports) as (sick, cured),
    ):
        for client in (sick, cured):
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
        assert ends(cured)
        assert not hears_end(sick)


def test_reset_that_nobody_reads():
    """2: a paused transport never meets the error that its peer's RST left; the guard has it closed."""
    with both(pauses, "--fin-timeout", 0.5) as (bare, guarded, ports):
        before = [eventually(lambda program=program: sockets_of(program)) for program in (bare, guarded)]
        with clients(ports) as pair:
            for client in pair:
                accepted(client)
                reset(client)
        wait_for(ports[0], state=ESTABLISHED, count=0)
        eventually(lambda: sockets_of(guarded) == before[1], timeout=PATIENCE)
        assert sockets_of(bare) == before[0] + 1


# 4, 16: peers that are there, and do too little

IDLE = 6.0
"""Seconds of the limits; whoever keeps to them does something every 0.2 s."""


def keep_sending(client, stop, data=b"x"):
    with contextlib.suppress(OSError):
        while not stop.wait(0.2):
            client.sendall(data)


def be_silent(client, stop):
    pass


def send_once(client, stop):
    client.sendall(b"request")


def send_and_read_nothing(client, stop):
    with contextlib.suppress(OSError):
        client.sendall(bytes(20_000_000))


def upload(client, stop):
    keep_sending(client, stop, bytes(5000))


class Limit(NamedTuple):
    """A limit on live connections: who breaks it, and who does not."""

    field: str
    options: tuple[object, ...]
    culprit: Callable[[socket.socket, threading.Event], None]
    innocent: Callable[[socket.socket, threading.Event], None]
    program: Callable[[], None] = echoes_and_ticks
    words: tuple[str, ...] = ()


LIMITS = {
    limit.field: limit
    for limit in (
        Limit("idle_timeout", ("--idle-timeout", IDLE), be_silent, keep_sending),
        Limit("first_byte_timeout", ("--first-byte-timeout", IDLE), be_silent, send_once),
        Limit("read_idle_timeout", ("--read-idle-timeout", IDLE), be_silent, keep_sending, words=("tick",)),
        Limit("write_stall_timeout", ("--write-stall-timeout", IDLE), send_and_read_nothing, be_silent),
        Limit(
            "receive_rate",
            ("--min-receive-rate", 1000, "--receive-rate-grace", IDLE),
            keep_sending,
            upload,
            program=takes_uploads,
        ),
    )
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_live_connections(name, at_once):
    """4, 16: each limit ends who breaks it and nobody else, and the log names the setting; none is there by default."""
    at_once(check_limit, LIMITS, name)


def check_limit(limit):
    with (
        both(limit.program, *limit.options, words=limit.words) as (_, guarded, ports),
        clients((*ports, ports[1])) as (bare_culprit, culprit, innocent),
        acting([(bare_culprit, limit.culprit), (culprit, limit.culprit), (innocent, limit.innocent)]),
    ):
        wait_for(ports[1], remote_port=port_of(culprit), state=ESTABLISHED, count=0)
        assert told(guarded, limit.field)
        wait_for(ports[1], remote_port=port_of(innocent), state=ESTABLISHED)
        wait_for(ports[0], remote_port=port_of(bare_culprit), state=ESTABLISHED)


@contextlib.contextmanager
def acting(acts) -> Iterator[None]:
    """Lets clients act in threads of their own, until the end."""
    stop = threading.Event()
    threads = [threading.Thread(target=act, args=(client, stop)) for client, act in acts]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for client, _ in acts:
            reset_if_open(client)
        for thread in threads:
            thread.join()


def reset_if_open(client: socket.socket) -> None:
    """Ends a connection even for a thread that is blocked on it."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def test_lifetime():
    """16: a connection that is busy is ended when it is too old; a younger one is not."""
    with (
        both(echoes_and_ticks, "--max-lifetime", IDLE, "--max-lifetime-jitter", "none") as (_, guarded, ports),
        clients(ports) as (bare_old, old),
        acting([(old, keep_sending), (bare_old, keep_sending)]),
    ):
        wait_for(ports[1], remote_port=port_of(old), state=ESTABLISHED, count=0)
        assert told(guarded, "max_lifetime")
        with socket.create_connection(("127.0.0.1", ports[1])) as young:
            young.sendall(b"young")
            assert young.recv(100) == b"young"
        wait_for(ports[0], remote_port=port_of(bare_old), state=ESTABLISHED)


# 6, 20: keepalive


def test_keepalive_is_set_per_connection():
    """20: by default every connection of both sides is probed in time; what the program sets itself is left alone."""
    with both(tells_keepalive) as (bare, guarded, _):
        idle, interval, count = (
            int(run_sysctl(f"net.ipv4.tcp_keepalive_{name}")) for name in ("time", "intvl", "probes")
        )
        off = [0, idle, interval, count]
        ours = [1, 60, 15, 4]
        eventually(lambda: guarded.ask("?") == f"{ours} {ours} {[1, 77, interval, count]}", timeout=PATIENCE)
        assert bare.ask("?") == f"{off} {off} {[1, 77, interval, count]}"


def run_sysctl(name: str) -> str:
    with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
        return file.read()


@needs_root
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare here: a cable that is cut was not tested")
def test_peer_that_vanished_without_a_fin():
    """6: a peer behind a cut cable is found by probes; without them it seems to be there for ever."""
    in_namespace = {"prefix": ("unshare", "--net")}
    with (
        running(loses_its_cable, None, **in_namespace) as bare,
        running(loses_its_cable, ["--keepalive", "1,1,2"], **in_namespace) as guarded,
    ):
        ports = [program.port() for program in (bare, guarded)]
        assert [bare.line(), guarded.line()] == ["b'hello'"] * 2
        assert guarded.line() == "ETIMEDOUT"
        wait_for(ports[1], pid=guarded.pid, state=ESTABLISHED, count=0)
        wait_for(ports[0], pid=bare.pid, state=ESTABLISHED)


# 10: shared with a child


def test_connection_that_a_child_keeps():
    """10: the parent has closed, a forked child has not; close() has sent nothing, and the guard's shutdown does."""
    with both(forks, "--fin-timeout", 0.5) as (bare, guarded, ports), clients(ports) as (sick, cured):
        for client in (sick, cured):
            accepted(client)
            client.shutdown(socket.SHUT_WR)
        assert bare.ask("close") == "closed"
        assert guarded.ask("close") == "closed"
        assert ends(cured)
        assert not hears_end(sick)
        wait_for(ports[0], state=CLOSE_WAIT, inode=True)


# 11: too busy to close


def test_blocked_event_loop():
    """11: while its loop is blocked a server closes nothing; the guard ends TCP meanwhile, and names the line."""
    with (
        both(blocks_its_loop, "--fin-timeout", 0.5) as (_, guarded, ports),
        clients(ports) as (sick, cured),
        clients(ports) as blockers,
    ):
        for client in (sick, cured):
            client.sendall(b"hello")
        for blocker in blockers:
            blocker.sendall(b"block")
            assert blocker.recv(100) == b"blocking"
        for client in (sick, cured):
            client.shutdown(socket.SHUT_WR)
        assert ends(cured)
        assert not hears_end(sick)
        assert told(guarded, "loop_stalled")
        assert told(guarded, "in blocks_here")


# 13, 14, 15: before accept()

DEAD_CLIENTS = 5


def fill_queue(port: int) -> socket.socket:
    """Occupies the program, lets some clients connect, give up and go, and then comes as one that is there."""
    busy = socket.create_connection(("127.0.0.1", port))
    wait_for(port, remote_port=port_of(busy), inode=True)
    for _ in range(DEAD_CLIENTS):
        socket.create_connection(("127.0.0.1", port)).close()
    wait_for(port, state=CLOSE_WAIT, inode=False, count=DEAD_CLIENTS)
    return busy


def test_dead_connections_in_the_queue():
    """13, 14: clients that gave up in the accept queue are served one by one; with shedding only the live one is."""
    with both(is_stuck, "--shed-dead-on-accept", "always", words=(128,)) as (bare, guarded, ports):
        served = [serve_queue(program, port) for program, port in zip((bare, guarded), ports, strict=True)]
        assert served == [["dead"] * DEAD_CLIENTS + ["live"], ["live"]]


def serve_queue(program: Running, port: int) -> list[str]:
    with fill_queue(port), socket.create_connection(("127.0.0.1", port)) as live:
        live.sendall(b"question")
        program.say("go on")
        return served_until_live(program)


def served_until_live(program: Running) -> list[str]:
    served = [program.line()]
    while served[-1] != "live":
        served.append(program.line())
        assert served[-1], program.errors()
    return served


def test_full_queue_of_dead_connections():
    """13, 14: by default dead connections are shed when the queue is full, so that who still waits gets in.

    That nobody works the queue off is told before.
    """
    with both(is_stuck, "--leak-after", 1, words=(DEAD_CLIENTS - 1,)) as (bare, guarded, ports):
        served = []
        for program, port in zip((bare, guarded), ports, strict=True):
            with fill_queue(port), socket.socket() as live:
                live.setblocking(False)
                assert live.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
                if program is guarded:
                    assert told(guarded, "accept_queue_stuck")
                    time.sleep(8)  # it has seen the queue, and looks what is short every second
                program.say("go on")
                assert select.select([], [live], [], PATIENCE)[1]
                live.setblocking(True)
                live.sendall(b"question")
                served.append(served_until_live(program))
        assert served == [["dead"] * DEAD_CLIENTS + ["live"], ["live"]]


# 15, 22: out of descriptors


def ask_in_time(port: int, seconds: float) -> bytes:
    """Asks a server that echoes, and gives what came in time."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(seconds)
        client.sendall(b"alive?")
        with contextlib.suppress(TimeoutError):
            return client.recv(100)
    return b""


def test_descriptors_run_out():
    """15, 22: leaks use up the descriptors and accept() fails until a restart; under the guard the server lives on."""
    with both(runs_out, "--leak-after", 1) as (bare, guarded, ports):
        for _ in range(60):
            for port in ports:
                socket.create_connection(("127.0.0.1", port)).close()
        assert told(guarded, "fd_limit_near")
        for _ in range(60):
            socket.create_connection(("127.0.0.1", ports[1])).close()
        assert ask_in_time(ports[1], PATIENCE) == b"alive?"
        assert "Too many open files" in bare.errors()
        assert ask_in_time(ports[0], 2) == b""


def test_cure_of_a_program_that_runs():
    """22: a leaking program that never heard of sockguard is healed by `reap`, without a restart."""
    with running(ignores_eof) as program, clients((port := program.port(),)) as (client,):
        client.shutdown(socket.SHUT_WR)
        wait_for(port, state=CLOSE_WAIT, inode=True)
        reaped = run("reap", "--pid", program.pid, "--older-than", 0, "--yes")
        assert reaped.status == 0, reaped.err
        assert ends(client)


# 17: a late answer to a half-closed peer


def test_half_closed_peer_that_waits():
    """17: who half-closes and waits for longer than `fin_timeout` gets its answer with half_close="allow" only.

    That it is waiting is reported.
    """
    with (
        running(answers_when_told, ["--fin-timeout", 1]) as drains,
        running(answers_when_told, ["--fin-timeout", 1, "--half-close", "allow", "--leak-after", 1]) as allows,
        clients((drains.port(), allows.port())) as (ended, waiting),
    ):
        for client in (ended, waiting):
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
        assert ends(ended)
        assert told(allows, "leak_detected")
        allows.say("answer")
        waiting.settimeout(PATIENCE)
        assert (waiting.recv(100), waiting.recv(100)) == (b"answer", b"")


# The same by install()

SERVE_ONE = """
import socket, sockguard
listener = socket.create_server(("127.0.0.1", 0))
kept = []
"""


def half_closed_to(child) -> socket.socket:
    """Connects to a child that accepts, and half-closes."""
    client = socket.create_connection(("127.0.0.1", int(child.ask("listener.getsockname()[1]"))))
    child.do("kept.append(listener.accept()[0])")
    client.shutdown(socket.SHUT_WR)
    return client


def test_install_and_uninstall():
    """1: install() cures what is accepted from then on; after uninstall() the trouble is back."""
    with start_child() as child:
        teach(child, SERVE_ONE)
        child.do("guard = sockguard.install(fin_timeout=1)")
        with half_closed_to(child) as cured:
            assert ends(cured)
        child.do("sockguard.uninstall()")
        with half_closed_to(child) as sick:
            child.do("with sockguard.install(fin_timeout=1): again = listener.getsockname()")
            child.do("import time; time.sleep(3)")
            assert not hears_end(sick)
