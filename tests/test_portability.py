"""Where there is no Linux: everything imports, and one clear error says what is missing."""

import subprocess
import sys

from elsewhere import on_each_system
from elsewhere import run_elsewhere as run_on

AS_ELSEWHERE = """
import errno, os, select, socket, sys
for module, names in {
    select: ["poll", "epoll", "POLLRDHUP"],
    socket: ["AF_NETLINK", "AF_UNIX", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_INFO"],
    os: ["fork", "pidfd_open", "getxattr", "O_DIRECTORY"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "darwin"
sys.modules["resource"] = None
"""


def run_elsewhere(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter that lacks what only Linux has."""
    return subprocess.run(
        [sys.executable, "-P", "-c", AS_ELSEWHERE + code], capture_output=True, text=True, timeout=60, check=False
    )


def test_every_module_imports_without_linux():
    """No import fails on macOS or Windows, not even of the rooms that only serve Linux."""
    done = run_elsewhere("""
import importlib, pkgutil
import sockguard
names = [m.name for m in pkgutil.walk_packages(sockguard.__path__, "sockguard.")
         if not m.name.startswith("sockguard.cli.") and m.name != "sockguard.__main__"]
assert "sockguard._kernel.own_fds" in names
for name in names:
    importlib.import_module(name)
print(len(names))
""")
    assert done.stderr == ""
    assert int(done.stdout) > 15


def test_finding_leaks_elsewhere_is_one_clear_error():
    """`find_leaks()` names the system, and what to do, in one exception of ours."""
    done = run_elsewhere("""
import sockguard
try:
    sockguard.find_leaks()
except sockguard.KernelUnavailable as error:
    print(error)
""")
    assert done.stdout == (
        "finding leaks is not available: darwin is not Linux. Run it on the Linux host of the server.\n"
    )


def test_report_elsewhere_is_one_line_and_status_2():
    """The command says the same on stderr, without a traceback."""
    done = run_elsewhere("""
from sockguard.cli.main import run
run(["report"])
""")
    assert done.returncode == 2
    assert done.stderr.startswith("sockguard: looking at processes is not available: darwin is not Linux.")
    assert done.stderr.count("\n") == 1


# --- By the names that Python has on each system, as typeshed has them ---

STANDARD = "import asyncio, concurrent.futures, logging, random, socket, threading\n"

IMPORT_ALL = """
import importlib, pkgutil
import sockguard
names = [m.name for m in pkgutil.walk_packages(sockguard.__path__, "sockguard.")
         if not m.name.startswith("sockguard.cli.") and m.name != "sockguard.__main__"]
for name in names:
    importlib.import_module(name)
for name in sockguard.__all__:
    getattr(sockguard, name)
print(len(names))
"""


@on_each_system
def test_every_module_imports_on(system):
    """None asks at import for a name that Python has not got there."""
    done = run_on(system, IMPORT_ALL, first=STANDARD)
    assert done.stderr == ""
    assert int(done.stdout) > 100


SERVER = """
import socket, threading, time
import sockguard

listener = sockguard.create_server(("127.0.0.1", 0), policy=sockguard.Policy(idle_timeout=1))
kept = []

def serve():
    while True:
        connection, _ = listener.accept()
        connection.settimeout(20)
        kept.append(connection)
        connection.sendall(connection.recv(100))

threading.Thread(target=serve, daemon=True).start()
with socket.create_connection(listener.getsockname(), timeout=10) as client:
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    began = time.monotonic()
    assert client.recv(100) == b""
    print(1 <= time.monotonic() - began < 8)
for _ in range(1000):
    if kept[0].connection.state == "closed":
        break
    time.sleep(0.01)
print(kept[0].connection.state, kept[0].connection.ended_by)
"""


@on_each_system
def test_a_guarded_server_ends_what_is_idle_on(system):
    """A server with threads, by its own stamps: the client that went quiet is let go, and the descriptor released."""
    done = run_on(system, SERVER, first=STANDARD)
    assert done.stderr == ""
    in_time, state = done.stdout.splitlines()
    assert in_time == "True"
    assert state.startswith("closed nothing had moved either way for ")
    assert state.endswith(" s (idle_timeout=1)")


LEAK = """
import logging, socket, time
import sockguard

said = []
class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("sockguard").addHandler(Keep())
policy = sockguard.Policy(fin_timeout=6, leak_after=1)
with sockguard.create_server(("127.0.0.1", 0), policy=policy) as listener:
    client = socket.create_connection(listener.getsockname())
    connection, _ = listener.accept()
    client.close()
    until = time.monotonic() + 30
    while connection.connection.state != "closed" and time.monotonic() < until:
        time.sleep(0.01)
print(connection.connection.state)
while not all(any(word in line for line in said) for word in ("Leaked", "Closed")) and time.monotonic() < until:
    time.sleep(0.01)
for line in said:
    print(line)
"""


@on_each_system
def test_a_peer_that_hung_up_is_noticed_while_nobody_reads_on(system):
    """Told as a leak, then ended, by a thread that only looks: the program calls nothing in between."""
    done = run_on(system, LEAK, first=STANDARD)
    assert done.stderr == ""
    state, *said = done.stdout.splitlines()
    assert state == "closed"
    assert [any(word in line for line in said) for word in ("Leaked connection", "Closed")] == [True, True]


NOT_HERE = """
import sockguard
for needs_linux in (sockguard.install, sockguard.find_leaks):
    try:
        needs_linux()
    except sockguard.KernelUnavailable as error:
        print(error)
"""


@on_each_system
def test_what_needs_linux_says_so_in_one_line_on(system):
    """What is missing, why, and what to do instead."""
    done = run_on(system, NOT_HERE, first=STANDARD)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [f"is not available: {system} is not Linux. " in line for line in lines] == [True, True]
