"""Has each tool of the scoreboard watch every test: pyleak by its marker, psleak by one call of the test itself."""

import functools
import inspect
import os
import signal
import socket
import threading

import pytest

TOOL = os.environ.get("SCOREBOARD_TOOL", "")


def pytest_collection_modifyitems(items):
    """Marks the tests for pyleak, and wraps them for psleak."""
    for item in items:
        if TOOL == "pyleak":
            item.add_marker(pytest.mark.no_leaks("tasks", "threads"))
        if TOOL == "psleak" and not inspect.iscoroutinefunction(item.function):
            item.obj = watched_by_psleak(item.obj)


def watched_by_psleak(test):
    """Runs a test within psleak's check of descriptors and threads, as often as it has to be."""
    from psleak import Checkers, MemoryLeakTestCase  # noqa: PLC0415 - one tool of several

    @functools.wraps(test)
    def watched(**arguments):
        checkers = Checkers.only("fds", "py_threads", "gcgarbage")
        options = {"times": 2, "warmup_times": 1, "retries": 1, "checkers": checkers}
        MemoryLeakTestCase().execute(functools.partial(test, **arguments), **options)

    return watched


@pytest.fixture(scope="session")
def server():
    """A server that answers each line with itself, and closes when the client does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(line)

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture(scope="session")
def deaf_server():
    """A listener that never accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture(scope="session")
def session_fixture(server):
    """Leaks: it opens a connection for all tests, and nobody closes it."""
    return socket.create_connection(server)


@pytest.fixture(scope="session", autouse=True)
def children():
    """Pids of the children that tests leave behind; ended when all is over."""
    pids = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
