"""docs/examples: each is run as anybody would, with its peers broken; and once more with the guard taken out."""

import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from commands import environment, report
from faults.matrix_scene import sockets_of
from loopback import reset
from netstat import CLOSE_WAIT, ESTABLISHED, rows, wait_for
from redis_server import RedisServer, start_redis
from relay import Relay
from waiting import eventually

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
PEM = Path(__file__).parent / "faults" / "programs" / "localhost.pem"
pytestmark = pytest.mark.one_python

SLOW = 20.0
"""Seconds for what takes one or two: all of it happens in other processes."""
LIMIT = 4.0
"""Seconds of the time-out that is to end a connection."""
LONG = 600.0
"""Seconds of one that no test waits for."""
Break = Callable[[socket.socket, "Example"], None]


class Example(NamedTuple):
    """A server of docs/examples, and how one talks to it."""

    name: str
    taken_out: tuple[tuple[str, str], ...]
    """What makes of it the same server without the guard: texts, each of which it has once, and their replacements."""
    arguments: tuple[str, ...] = ()
    hello: bytes = b"hello\n"
    wait: bytes = b"wait\n"
    """What makes it look away from its client."""
    reads_on: bool = False
    """It takes bytes in, and so sees a reset, until its buffers are full."""
    needs: str = "sockguard"


NO_POLICY = (", policy=policy", "")
SERVERS = {
    example.name: example
    for example in (
        Example(
            "echo_threads",
            (("sockguard.create_server", "__import__('socket').create_server"), NO_POLICY),
        ),
        Example(
            "http_server",
            (("sockguard.GuardedServerMixin, ", ""), NO_POLICY),
            hello=b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
            wait=b"GET /wait HTTP/1.1\r\nHost: here\r\n\r\n",
        ),
        Example("echo_selectors", (("sockguard.GuardedSelector(policy=policy)", "selectors.DefaultSelector()"),)),
        Example(
            "echo_asyncio_streams",
            (("sockguard.aio.start_server", "asyncio.start_server"), NO_POLICY),
            reads_on=True,
        ),
        Example(
            "echo_asyncio_protocol_tls",
            (("sockguard.aio.create_server", "asyncio.get_running_loop().create_server"), NO_POLICY),
            arguments=(str(PEM),),
            reads_on=True,
        ),
        Example(
            "echo_anyio_trio",
            (("sockguard.anyio.create_tcp_listener", "anyio.create_tcp_listener"), NO_POLICY),
            needs="trio",
        ),
    )
}
REDIS = Example(
    "redis_client_heartbeat",
    (
        (
            'sockguard.guard_socket(socket.create_connection(("127.0.0.1", port)), policy)',
            'socket.create_connection(("127.0.0.1", port))',
        ),
    ),
)


class Running:
    """An example that runs."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        assert process.stdin and process.stdout
        self._stdin, self._stdout = process.stdin, process.stdout
        self.pid = process.pid
        self._log = log
        self.inode = 0
        """Of its end of the connection that the test looks at."""

    def say(self, line: str) -> None:
        """Gives it a line of input."""
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def told(self) -> str:
        """Waits for a line of its output."""
        return self._stdout.readline().rstrip("\n")

    def port(self) -> int:
        """Reads the port that it listens on."""
        word, port = self.told().split()
        assert word == "port"
        return int(port)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    @property
    def holds_it(self) -> bool:
        """Tells whether it still has the descriptor of the connection."""
        return self.inode in sockets_of(self.pid).values()

    @property
    def causes(self) -> set[str]:
        """What `sockguard report` says of it."""
        return {leak["cause"] for leak in report(self.pid)["leaks"]}


@contextlib.contextmanager
def started(example: Example, folder: Path, *options: object, is_bare: bool) -> Iterator[Running]:
    """Runs an example, as it is or without its guard; it is killed at the end, by its pid."""
    code = (EXAMPLES / f"{example.name}.py").read_text()
    for old, new in example.taken_out if is_bare else ():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    program = folder / f"{'bare_' * is_bare}{example.name}.py"
    program.write_text(code)
    log = program.with_suffix(".log")
    words = [sys.executable, "-P", "-W", "error", str(program), *example.arguments, *map(str, options)]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment()
        ) as process,
    ):
        try:
            yield Running(process, log)
        finally:
            process.kill()


def connect(server: Running, port: int, example: Example) -> socket.socket:
    """Connects, and is served as anybody."""
    client = socket.create_connection(("127.0.0.1", port), timeout=SLOW)
    if example.arguments:
        context = ssl.create_default_context(cafile=PEM)
        context.check_hostname = False
        client = context.wrap_socket(client)
    client.sendall(example.hello)
    got = b""
    while not got.endswith(b"hello\n"):
        data = client.recv(4096)
        assert data, got
        got += data
    server.inode = wait_for(port, remote_port=client.getsockname()[1], inode=True)[0].inode  # last: it takes its time
    return client


def hang_up(client: socket.socket, example: Example) -> None:
    """Asks for news, and closes."""
    client.sendall(example.wait)
    client.close()


def break_off(client: socket.socket, example: Example) -> None:
    """Asks for news, sends more than the server wants to know, and resets."""
    client.sendall(example.wait)
    if example.reads_on:
        client.settimeout(3.0)
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(bytes(65536))
    reset(client)


def vanish(client: socket.socket, example: Example) -> None:
    """Is heard of no more."""


FAULTS: dict[str, tuple[Break, str]] = {
    "hung_up": (hang_up, "its peer had hung up and nothing had moved for"),
    "reset": (break_off, "it had been over for"),
    "vanished": (vanish, "nothing had moved either way for"),
}


def options_for(fault: str) -> tuple[object, ...]:
    """Makes the one time-out short that is meant; the other is out of the way."""
    fin, idle = (LONG, LIMIT) if fault == "vanished" else (LIMIT, LONG)
    return "--fin-timeout", fin, "--idle-timeout", idle


def lines_of(example: Running, text: str, logger: str = "WARNING:sockguard:") -> list[str]:
    """Finds lines in the log."""
    return [line for line in example.log.splitlines() if line.startswith(logger) and text in line]


LEAKS = {"hung_up": {"eof_ignored", "eof_unread"}, "reset": {"dead_fd"}, "vanished": set()}
"""What `sockguard report` can say of them without the guard; of a peer that has vanished nobody knows."""


def assert_nothing_is_left(server: Running, port: int) -> None:
    """Holds it to have no connection and no leak."""
    assert [row for row in rows(port) if row.state in {ESTABLISHED, CLOSE_WAIT}] == []
    assert server.causes == set()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SERVERS)
def test_server_ends_what_its_peer_has_broken(name, fault, tmp_path):
    """The guard closes the connection and logs why; without it, by then it is still open, and reported as a leak."""
    example, (make_trouble, words) = SERVERS[name], FAULTS[fault]
    pytest.importorskip(example.needs)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        servers = [enter(started(example, tmp_path, *options_for(fault), is_bare=is_bare)) for is_bare in (True, False)]
        bare, guarded = servers
        ports = [server.port() for server in servers]
        clients = [enter(connect(server, port, example)) for server, port in zip(servers, ports, strict=True)]
        for client in clients:
            make_trouble(client, example)
        eventually(lambda: not guarded.holds_it, timeout=SLOW)
        eventually(lambda: lines_of(guarded, words), timeout=SLOW)
        assert bare.holds_it
        (line,) = lines_of(guarded, words)
        assert "Closed 127.0.0.1:" in line
        assert lines_of(bare, "", "WARNING:") == []
        assert_nothing_is_left(guarded, ports[1])
        assert bool(bare.causes & LEAKS[fault]) == bool(LEAKS[fault])
        connect(guarded, ports[1], example).close()
    assert "Traceback" not in guarded.log


# --- Redis ---


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    """A Redis server for all tests here."""
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def silence(relay: Relay) -> None:
    """Has Redis be heard of no more."""
    relay.is_silent = True


REDIS_FAULTS: dict[str, tuple[Callable[[Relay], None], str]] = {
    "hung_up": (Relay.hang_up, "its peer had hung up and nothing had moved for"),
    "reset": (Relay.reset, "it had been over for"),
    "vanished": (silence, "gave no sign of life for"),
}


def ask(client: Running, relay: Relay) -> None:
    """Has the client ask something, and notes which connection it has."""
    client.say("ECHO hello")
    assert client.told() == "hello"

    def found() -> set[int]:  # the table lists a row twice if it grows while it is read
        own = set(sockets_of(client.pid).values())
        return own & {row.inode for port in {row.remote_port for row in rows(relay.port)} for row in rows(port)}

    eventually(lambda: len(found()) == 1)
    (client.inode,) = found()


@pytest.mark.slow
@pytest.mark.parametrize("fault", REDIS_FAULTS)
def test_redis_client_ends_what_its_server_has_broken(fault, redis, tmp_path):
    """The guard closes the resting connection and logs why, and the next command gets another; without it, it stays."""
    make_trouble, words = REDIS_FAULTS[fault]
    beat = ("--every", 0.3, "--timeout", LIMIT) if fault == "vanished" else ("--every", LONG)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        relays = {is_bare: enter(Relay(redis.port)) for is_bare in (True, False)}
        options = ("--fin-timeout", LIMIT, *beat)
        bare, guarded = (
            enter(started(REDIS, tmp_path, "--port", relay.port, *options, is_bare=is_bare))
            for is_bare, relay in relays.items()
        )
        for client, relay in ((bare, relays[True]), (guarded, relays[False])):
            assert client.told() == "connected"
            ask(client, relay)
            make_trouble(relay)
        eventually(lambda: not guarded.holds_it, timeout=SLOW)
        eventually(lambda: lines_of(guarded, words), timeout=SLOW)
        assert guarded.causes == set()
        assert bare.holds_it
        relays[False].is_silent = False
        ask(guarded, relays[False])
        assert lines_of(guarded, "Connecting again, as [Errno 103] sockguard ended this connection", "INFO:client:")
    assert "Traceback" not in guarded.log


# --- The folder ---


def test_every_example_is_run_here_and_described():
    """No program of the folder is left out, neither here nor in its README."""
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    readme = (EXAMPLES / "README.md").read_text()
    assert names == {*SERVERS, REDIS.name}
    assert [name for name in names if f"[{name}.py]({name}.py)" not in readme] == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_fits_a_screen(path):
    """An example has fifty lines at most, and begins by saying what it is."""
    code = path.read_text()
    assert len(code.splitlines()) <= 50
    assert code.startswith('"""A')
