"""gevent's sockets are adopted, patched or not, and the guard's thread stays a thread of the system."""

import sys

import pytest

from interpreters import run_program

TOOLS = """
import sys
import sockguard

def records():
    return sockguard.install().registry.records()

def until(predicate, seconds=20):
    import gevent
    for _ in range(int(seconds / 0.01)):
        if predicate():
            return True
        gevent.sleep(0.01)
    return False

def failures():
    return [e.message for _, e in sockguard._process.running.teller.recent if e.name == "guard_failed"]
"""
PATCH = "from gevent import monkey; monkey.patch_all()\n"
INSTALL = "sockguard.install(fin_timeout=0.5, leak_after=None)\n"


def run(*parts: str) -> list[str]:
    """Runs a program with gevent and these tools; it must not warn."""
    pytest.importorskip("gevent", reason="needs gevent: nothing of it was tested")
    return run_program(sys.executable, "".join((TOOLS, *parts)), timeout=60)


SERVES = """
import gevent
from gevent import socket
kept = []
listener = socket.socket()  # create_server() gives one of the standard library's
listener.bind(("127.0.0.1", 0))
listener.listen()

def serve():
    while True:
        kept.append(listener.accept()[0])

serving = gevent.spawn(serve)
client = socket.create_connection(listener.getsockname())
assert until(lambda: kept and all(r.cookie for r in records()) and len(records()) == 2)
found = {r.fd: (r.is_server, r()) for r in records()}
print(found == {kept[0].fileno(): (True, kept[0]), client.fileno(): (False, client)})
client.close()
print(until(lambda: kept[0]._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 8), failures())
with kept[0] as server:
    print(server.recv(1))
serving.kill()
listener.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    [PATCH + INSTALL, INSTALL + PATCH, INSTALL],
    ids=["patched before", "patched after", "used by name"],
)
def test_both_sides_are_adopted_and_a_leak_is_ended(begin):
    """The order of monkey-patching and installing does not matter; a greenlet that waits wakes up with EOF."""
    assert run(begin, SERVES) == ["True", "True []", "b''"]


SERVER = """
import gevent
from gevent.server import StreamServer
from gevent import socket
gate = gevent.event.Event() if hasattr(gevent, "event") else __import__("gevent.event").event.Event()

def handle(sock, address):
    gate.wait(30)

server = StreamServer(("127.0.0.1", 0), handle)
server.start()
client = socket.create_connection(("127.0.0.1", server.server_port))
client.shutdown(socket.SHUT_WR)
client.settimeout(20)
print(client.recv(1))
gate.set()
client.close()
server.stop()
print(failures())
"""


@pytest.mark.slow
def test_connections_of_a_stream_server_are_adopted():
    """It accepts past gevent's own accept()."""
    assert run(INSTALL, SERVER) == ["b''", "[]"]


THREAD = """
import os, threading, time
import gevent
listed = threading.enumerate()
tasks = len(os.listdir("/proc/self/task"))
sockguard.uninstall()
print(tasks - len(os.listdir("/proc/self/task")), len(listed))
"""


def test_the_guard_is_a_thread_and_no_greenlet():
    """Under monkey-patching, too: else a greenlet that does not switch would stop it."""
    assert run(PATCH, INSTALL, THREAD) == ["1 1"]


BLOCKS = """
import gevent, time
from gevent import socket
import _socket
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
until(lambda: len(records()) == 2)
client.shutdown(socket.SHUT_WR)
original = monkey.get_original("time", "sleep")
give_up_at = time.monotonic() + 20
state = lambda: server._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
while state() == 1:
    pass
while state() == 8 and time.monotonic() < give_up_at:
    original(0.01)  # no greenlet switches meanwhile
print(state() != 8)
for sock in (client, server, listener):
    sock.close()
"""


@pytest.mark.slow
def test_a_greenlet_that_never_switches_does_not_stop_it():
    """The guard works while the hub does not run."""
    assert run(PATCH, INSTALL, BLOCKS) == ["True"]
