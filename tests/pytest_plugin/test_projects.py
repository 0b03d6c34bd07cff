"""What the suites of real projects have taught: each was a false alarm in one of them (`tools/suites_of_others.py`)."""

import pytest

from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

WIDER = """
import pytest, socket

@pytest.fixture(scope="session")
def whatever():
    yield

@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made
"""


NOT_ACCEPTED = """
import time

def is_waiting(port):
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "08" for row in rows[1:])  # CLOSE_WAIT

def test_a(listener, request):
    socket.create_connection(listener.getsockname()).close()
    for _ in range(500):
        if is_waiting(listener.getsockname()[1]):
            break
        time.sleep(0.01)
    request.getfixturevalue("whatever")  # whoever is open is looked at before it is made
"""


def test_clients_that_a_listener_of_the_test_never_accepted(tmp_path):
    """A listener that the test itself closes takes along what waits there, so nobody is charged (anyio)."""
    write(tmp_path, conftest=WIDER, test_a="import socket\n" + NOT_ACCEPTED)
    outcome = run_suite(tmp_path)
    assert (outcome.leaks, outcome.errors, outcome.passed) == ([], [], ["test_a.py::test_a"])
