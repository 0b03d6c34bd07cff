"""The control socket: who is served and who is not, and what becomes of it in forks, daemons and crashes."""

import contextlib
import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import warnings

import pytest

from children import start_child
from commands import needs_root
from forks import succeeds_in_child
from servers import teach
from sockguard._engine import control
from sockguard._engine.control import MAX_ANSWER, MAX_CLIENTS, PATIENCE, RETRY_AFTER, ControlServer
from waiting import eventually

TOLD = {"connections": [{"cookie": 7}], "stalled": [], "policy": {"mode": "observe"}}
IN_A_CHILD = """
import time
from sockguard._engine.control import ControlServer
server = ControlServer(lambda: {"connections": []})
server.open()
"""


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A runtime directory of the user's own."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "sockguard"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server(clock):
    """A server that listens."""
    made = ControlServer(lambda: TOLD, clock)
    made.open()
    yield made
    made.close()


@contextlib.contextmanager
def asking(path, **options):
    """Connects as a client does."""
    with socket.socket(socket.AF_UNIX) as client:
        for option, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        client.settimeout(20)
        client.connect(path)
        yield client


def read_all(client) -> bytes:
    answer = b""
    while part := client.recv(1 << 16):
        answer += part
    return answer


def ask(server) -> dict:
    """Asks, has the server look once, and reads."""
    with asking(server.path) as client:
        server.poll()
        raw = read_all(client)
    assert raw.endswith(b"\n")
    return json.loads(raw)


def own_sockets() -> set[str]:
    links = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {link for link in links if link.startswith("socket:")}


def test_whoever_connects_is_told_in_one_line(server):
    """The answer is what `describe` says, with version and pid, and then the end."""
    assert ask(server) == {"schema": 1, "pid": os.getpid(), **TOLD}
    assert ask(server)["connections"] == [{"cookie": 7}]


def test_nobody_else_can_reach_it(server, folder):
    """The directory is private, and the socket too."""
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_is_described_if_nobody_asks():
    """A tick without clients costs a few system calls."""
    server = ControlServer(lambda: pytest.fail("nobody asked"))
    server.open()
    server.poll()
    server.close()


def test_it_is_off_before_it_is_opened_and_after_it_was_closed(folder):
    """Then a tick does nothing, and closing once more neither; the file is gone."""
    server = ControlServer(lambda: TOLD)
    server.poll()
    assert server.path is None
    server.open()
    server.close()
    server.poll()
    server.close()
    assert (server.path, list(folder.iterdir())) == (None, [])


def test_switch_in_the_environment(monkeypatch, folder):
    """SOCKGUARD_CONTROL=0 leaves no trace; any other value changes nothing."""
    monkeypatch.setenv("SOCKGUARD_CONTROL", "0")
    server = ControlServer(lambda: TOLD)
    server.open()
    server.poll()
    assert (server.path, folder.exists()) == (None, False)
    monkeypatch.setenv("SOCKGUARD_CONTROL", "1")
    server.open()
    assert ask(server)["schema"] == 1
    server.close()


def test_what_describe_raises_is_told_and_no_more():
    """A bug in the guard does not end the guard, and what it said may hold secrets."""
    server = ControlServer(lambda: {"connections": 1 / 0})
    server.open()
    assert ask(server) == {"schema": 1, "pid": os.getpid(), "error": "ZeroDivisionError"}
    server.close()


def test_describe_is_asked_once_for_all_who_ask_together():
    """What takes 50 ms for each sick connection is not done again for each client."""
    calls = []
    server = ControlServer(lambda: calls.append(1) or TOLD)
    server.open()
    with asking(server.path) as one, asking(server.path) as two:
        server.poll()
        assert read_all(one) == read_all(two) != b""
    server.close()
    assert calls == [1]


@pytest.mark.usefixtures("no_garbage")
def test_no_more_clients_than_a_few_are_served_at_once():
    """The others wait in the kernel's queue; when some are done, they are served."""
    size = MAX_ANSWER // 2
    server = ControlServer(lambda: {"policy": "x" * size})
    server.open()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(asking(server.path)) for _ in range(MAX_CLIENTS + 1)]
        before = own_sockets()
        server.poll()
        assert len(own_sockets() - before) == MAX_CLIENTS
        for client in clients:
            client.setblocking(False)
        received = dict.fromkeys(clients, 0)

        def all_have_all() -> bool:
            server.poll()
            for client in clients:
                with contextlib.suppress(BlockingIOError):
                    received[client] += len(client.recv(1 << 20))
            return min(received.values()) > size

        eventually(all_have_all)
    server.close()


@pytest.mark.usefixtures("no_garbage")
def test_client_that_does_not_read_is_dropped(clock):
    """It does not block a tick, and after some seconds its descriptor is given back."""
    server = ControlServer(lambda: {"policy": "x" * (MAX_ANSWER // 2)}, clock)
    server.open()
    with asking(server.path) as client:
        before = own_sockets()
        server.poll()
        clock.now += PATIENCE - 0.1
        server.poll()
        assert len(own_sockets() - before) == 1
        clock.now += 0.2
        server.poll()
        assert own_sockets() == before
        assert not read_all(client).endswith(b"\n")
    server.close()


@pytest.mark.usefixtures("no_garbage")
def test_client_that_reads_slowly_is_dropped_in_the_end(clock):
    """A client that takes a little each time is no reason to keep the answer for ever."""
    server = ControlServer(lambda: {"policy": "x" * (MAX_ANSWER - 100)}, clock)
    server.open()
    with asking(server.path) as client:
        before = own_sockets()
        server.poll()
        client.recv(1 << 18)
        clock.now += PATIENCE
        server.poll()
        assert own_sockets() == before
    server.close()


def test_client_that_has_left_harms_nobody(server):
    """Not even a program that wants to die of SIGPIPE."""
    previous = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with asking(server.path):
            pass
        server.poll()
    finally:
        signal.signal(signal.SIGPIPE, previous)
    assert ask(server)["schema"] == 1


def test_answer_has_a_limit():
    """Connections are left out until it fits, and counted; what cannot be made to fit is not sent."""
    entry = {"cookie": 7, "created_at": ["x" * 1000]}
    server = ControlServer(lambda: {"connections": [entry] * 2000})
    server.open()
    with asking(server.path) as client:
        server.poll()
        client.setblocking(False)
        raw = b""

        def is_complete() -> bool:
            nonlocal raw
            with contextlib.suppress(BlockingIOError):
                raw += client.recv(1 << 20)
            server.poll()
            return raw.endswith(b"\n")

        eventually(is_complete)
    answer = json.loads(raw)
    assert len(raw) <= MAX_ANSWER
    assert len(answer["connections"]) + answer["n_left_out"] == 2000
    server.close()
    server = ControlServer(lambda: {"policy": "x" * MAX_ANSWER})
    server.open()
    assert ask(server) == {"schema": 1, "error": "too large"}
    server.close()


ASK_AS = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
os.setgroups([])
os.setresuid(*[int(sys.argv[2])] * 3)  # now, as the interpreter may lie where only root can read
client.connect(sys.argv[1])
print("connected", flush=True)
print(len(client.recv(1000)))
"""


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(("uid", "is_served"), [(0, True), (65534, True), (65533, False)])
def test_only_root_and_the_user_are_served(uid, is_served, monkeypatch):
    """Another user gets nothing, even where the directory would let them in."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    server = ControlServer(lambda: TOLD)
    with tempfile.TemporaryDirectory() as everybodys:
        os.chmod(everybodys, 0o777)
        monkeypatch.setenv("TMPDIR", everybodys)
        os.seteuid(65534)
        try:
            server.open()
            os.chmod(os.path.dirname(server.path), 0o755)
            os.chmod(server.path, 0o666)
            assert served_to(server, uid) is is_served
        finally:
            os.seteuid(0)
            server.close()


def served_to(server, uid) -> bool:
    """Has another process ask as this user."""
    words = [sys.executable, "-c", ASK_AS, server.path, str(uid)]
    os.seteuid(0)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as client:
        os.seteuid(65534)
        assert client.stdout.readline() == "connected\n"
        server.poll()
        return int(client.stdout.readline()) > 0


# What happens to descriptors


def test_closed_number_that_is_a_file_of_the_program_now_is_left_alone(server, tmp_path):
    """A daemon closes all numbers and opens files that get them: these stay open, and a new listener is made."""
    number, path = listener_fd(server), server.path
    os.close(number)
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    assert file == number
    server.poll()
    os.write(file, b"still mine")
    os.close(file)
    assert (server.path, ask(server)["schema"]) == (path, 1)


def test_closed_number_is_replaced(server):
    """The same where the number is simply free."""
    os.close(listener_fd(server))
    server.poll()
    assert ask(server)["schema"] == 1


def test_number_of_a_client_is_not_trusted_either(clock, tmp_path):
    """Between two ticks the descriptor of a client may have become a file: nothing is written there."""
    server = ControlServer(lambda: {"policy": "x" * (MAX_ANSWER - 100)}, clock)
    server.open()
    with asking(server.path) as client:
        before = socket_fds()
        server.poll()
        (number,) = socket_fds() - before
        os.close(number)
        file = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
        assert file == number
        server.poll()
        assert os.fstat(file).st_size == 0
        os.close(file)
        read_all(client)
    server.close()


def test_lost_numbers_leave_no_warning(server):
    """What was let go is not closed later by the garbage collector."""
    os.close(listener_fd(server))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        server.close()
        gc.collect()


def listener_fd(server) -> int:
    """Finds the descriptor of a listener by the path that it is bound to."""
    for fd in socket_fds():
        with socket.socket(fileno=os.dup(fd)) as copy:
            if copy.family == socket.AF_UNIX and copy.getsockname() == server.path:
                return fd
    pytest.fail("it does not listen")


def socket_fds() -> set[int]:
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if is_socket(fd)}


def is_socket(fd) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def test_no_place_is_no_error(clock, folder, monkeypatch):
    """Without a safe directory there is no control socket; later it is tried again, but not at each tick."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o755)
    server = ControlServer(lambda: TOLD, clock)
    server.open()
    server.poll()
    folder.chmod(0o700)
    server.poll()
    assert server.path is None
    clock.now += RETRY_AFTER
    server.poll()
    assert ask(server)["schema"] == 1
    server.close()


@pytest.mark.usefixtures("no_garbage")
def test_half_made_listener_is_taken_back(folder, monkeypatch):
    """If the socket cannot be made private, there is none."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(control.os, "chmod", refuse)
    server = ControlServer(lambda: TOLD)
    before = own_sockets()
    server.open()
    assert (server.path, list(folder.iterdir()), own_sockets()) == (None, [], before)
    server.close()


def test_file_of_somebody_else_is_not_removed(server):
    """Whoever has replaced our file keeps theirs."""
    os.unlink(server.path)
    with socket.socket(socket.AF_UNIX) as other:
        path = server.path
        other.bind(path)
        server.close()
        assert os.path.exists(path)


def test_removed_file_is_no_error(server):
    """A tidy administrator may remove it."""
    os.unlink(server.path)
    server.close()
    assert server.path is None


# Forks


def in_fork(work) -> None:
    """Runs something in a forked child; it must end without an error."""
    assert succeeds_in_child(lambda: (work(), True))


@pytest.mark.parametrize("is_told", [True, False])
def test_child_has_a_socket_of_its_own_and_leaves_the_parents(server, folder, is_told):
    """It answers with its own pid, whether the fork was announced or is noticed; the parent's goes on."""
    path = server.path

    def work():
        if is_told:
            server.after_fork_in_child()
        server.poll()
        assert server.path != path
        assert ask(server)["pid"] == os.getpid()
        server.close()

    in_fork(work)
    assert ask(server)["pid"] == os.getpid()
    assert list(folder.iterdir()) == [folder / os.path.basename(path)]


def test_fork_that_nobody_announces_is_noticed_by_the_pid(server, folder, monkeypatch):
    """A fork by a C library calls no hook of Python."""
    parents = server.path
    monkeypatch.setattr(control.os, "getpid", lambda: 4711)
    server.poll()
    assert os.path.basename(server.path).startswith("4711-")
    assert sorted(folder.iterdir()) == sorted([folder / os.path.basename(path) for path in (server.path, parents)])
    server.close()
    os.unlink(parents)


def test_child_that_only_closes_leaves_the_parents_file(server):
    """A child that ends before its first tick takes nothing with it."""
    in_fork(server.close)
    assert ask(server)["schema"] == 1


# What dead processes leave behind


@pytest.mark.slow
def test_file_of_a_killed_process_is_swept_by_the_next(server, folder):
    """The file of a process that still runs stays."""
    with start_child() as living, start_child() as dying:
        for child in (living, dying):
            teach(child, IN_A_CHILD)
        kept, left = (child.ask("server.path") for child in (living, dying))
        os.kill(dying.pid, signal.SIGKILL)
        dying.end()
        assert os.path.exists(left)
        again = ControlServer(lambda: TOLD)
        again.open()
        assert [os.path.exists(path) for path in (kept, left)] == [True, False]
        again.close()


@pytest.mark.slow
def test_daemon_answers_again(folder):
    """After fork, setsid and closerange, as the book has it, the daemon has a socket of its own."""
    with start_child() as child:
        teach(child, IN_A_CHILD)
        path = child.ask("server.path")
        teach(
            child,
            """
read, write = os.pipe()
daemon = os.fork()
if not daemon:
    os.setsid()
    os.dup2(write, 2)
    os.closerange(3, 1024)
    files = [os.open("/dev/null", os.O_RDWR) for _ in range(8)]
    give_up_at = time.monotonic() + 60
    while not os.path.exists(os.environ["XDG_RUNTIME_DIR"] + "/over") and time.monotonic() < give_up_at:
        server.poll()
        time.sleep(0.01)
    assert all(os.fstat(file).st_rdev == os.stat("/dev/null").st_rdev for file in files)
    server.close()
    os._exit(0)
""",
        )
        daemon = int(child.ask("daemon"))
        found = eventually(lambda: [file for file in folder.iterdir() if file.name.startswith(f"{daemon}-")])
        with asking(str(found[0])) as client:
            assert json.loads(read_all(client))["pid"] == daemon
        assert os.path.exists(path)
        (folder.parent / "over").touch()
        child.do("assert os.waitpid(daemon, 0)[1] == 0")
