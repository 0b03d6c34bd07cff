"""What the suites share: a healthy server of session scope, a server that never lets go, one that never accepts."""

import http.client
import http.server
import os
import signal
import socket
import threading

import pytest


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made.server_address
        made.shutdown()
        thread.join()


class Client:
    """Connects when it is first used, as the clients of most libraries do."""

    def __init__(self, address):
        self.address = address
        self.connection = None

    def get(self):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(*self.address)
        self.connection.request("GET", "/")
        return self.connection.getresponse().read()

    def close(self):
        if self.connection is not None:
            self.connection.close()


@pytest.fixture(scope="session")
def client(server):
    made = Client(server)
    yield made
    made.close()


@pytest.fixture(scope="module")
def leaking_client(server):
    return Client(server)


@pytest.fixture(scope="module")
def deaf_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture(scope="module")
def clinging_server():
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve():
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname(), kept
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in kept:
        connection.close()


CHILDREN = []


@pytest.fixture
def children():
    return CHILDREN


def pytest_runtest_logfinish():
    """Ends them when the test is judged; a fixture would do so before, in the teardown of the test that is last."""
    while CHILDREN:
        pid = CHILDREN.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


DEAD = ("refcount", "cycle", "forgotten", "function_loop", "uvloop")
"""What is in the names of tests whose socket is closed by the end, if by nobody: there the server has yet to follow."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Does not wait long for what is kept on purpose, and has innocent tests come last, also if they are shuffled.

    With the last one (of each worker) the servers end, and whatever they have.
    """
    for item in items:
        if item.name.startswith("test_leak") and not any(word in item.name for word in DEAD):
            item.add_marker(pytest.mark.socket_leaks(grace=0.2))
    items.sort(key=lambda item: item.name.startswith("test_innocent_last"))
