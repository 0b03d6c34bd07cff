"""The end of a test: who fails for what, whatever the test has done to the descriptors of its process."""

import pytest

from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

TESTS = """
import os, socket
import pytest
KEPT = []
def connect(): KEPT.append(socket.socket()); return KEPT[-1]

def test_closes_standard_input(): os.close(0)
def test_leak_in_the_place_of_standard_input():
    if os.path.exists("/proc/self/fd/0"):
        os.close(0)
    assert connect().fileno() == 0
def test_closes_by_number():
    os.close(socket.socket().detach())
def test_reuses_a_number():
    sock = socket.socket()
    number = sock.detach()
    os.close(number)
    with socket.socket() as other:
        assert other.fileno() == number
def test_leak_of_a_number(): KEPT.append(socket.socket().detach())
def test_leak_duplicate():
    with socket.socket() as sock:
        KEPT.append(sock.dup())
def test_leak_listener_with_a_queue():
    listener = socket.create_server(("127.0.0.1", 0))
    KEPT.append(listener)
    socket.create_connection(listener.getsockname()).close()
def test_innocent_after_the_queue(): pass
@pytest.mark.socket_leaks("warn")
def test_warned(): connect()
def test_innocent_closes_for_another(): KEPT.pop().close()
@pytest.mark.socket_leaks("off")
def test_off(): connect()
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run, in the order of the file."""
    folder = tmp_path_factory.mktemp("court")
    write(folder, test_a=TESTS)
    return run_suite(folder)


def test_guilty_are_charged_once(outcome):
    """And nobody else, though numbers are closed behind everybody's back and used again."""
    leaks = {
        *(
            "test_leak_in_the_place_of_standard_input",
            "test_leak_of_a_number",
            "test_leak_duplicate",
            "test_leak_listener_with_a_queue",
        ),
    }
    assert outcome.blamed() == leaks
    assert sorted(outcome.errors) == sorted(f"test_a.py::{test}" for test in leaks)
    assert len(outcome.passed) == 11


def test_warned_is_told_and_does_not_fail(outcome):
    """Its record says so; a test that is `off` has none."""
    assert [leak["test"] for leak in outcome.leaks if leak["status"] == "warning"] == ["test_a.py::test_warned"]


def test_our_own_stack_is_not_shown(outcome):
    """The failure is the story, without a traceback through the plugin."""
    assert "SocketLeakError: 1 socket left open" in outcome.text
    assert "court.py" not in outcome.text


def test_raised_in_the_test_itself_it_is_an_error_as_any_other(tmp_path):
    """What `no_socket_leaks()` raises in a test is shown with the line that raised it."""
    write(
        tmp_path,
        test_a="import sockguard, socket\nKEPT = []\ndef test_a():\n"
        "    with sockguard.no_socket_leaks(grace=0):\n        KEPT.append(socket.socket())\n",
    )
    outcome = run_suite(tmp_path)
    assert "FAILED test_a.py::test_a" in outcome.text
    assert "test_a.py:4: in test_a" in outcome.text
    assert outcome.leaks == []


LATE = """
import pytest, socket, threading
GO, DONE, KEPT = threading.Event(), threading.Event(), []
def work():
    GO.wait(20)
    KEPT.append(socket.socket())
    DONE.set()
def test_starts(): threading.Thread(target=work).start()
def test_innocent():
    GO.set()
    assert DONE.wait(20)
"""


def test_late_leak_fails_who_is_over(tmp_path):
    """A socket that a test's thread opens in the next one's time is the former's, who has a report of its own."""
    write(tmp_path, test_a=LATE)
    outcome = run_suite(tmp_path, "-o", "socket_leaks_grace=0.1")
    assert (outcome.status, outcome.errors, len(outcome.passed)) == (1, ["test_a.py::test_starts"], 2)
    [leak] = outcome.leaks
    assert (leak["test"], leak["created_by"][0]) == ("test_a.py::test_starts", "test_a.work")


def test_header(tmp_path):
    """One line: what is done, for how long is waited, how much is ignored."""
    write(tmp_path, test_a="def test_a(): pass")
    (tmp_path / "pytest.ini").write_text("[pytest]\nsocket_leaks_ignore = port:1\n")
    assert (
        "socket leaks: warn (grace 7 s, 1 ignore lines)"
        in run_suite(tmp_path, "-o", "socket_leaks_grace=7", leaks="warn").text
    )


ACCEPTED = """
import socket
import pytest
KEPT = []

@pytest.fixture(scope="session")
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener

@pytest.fixture(scope="session")
def client(listener):
    with socket.create_connection(listener.getsockname()) as client:
        yield client

def test_leak(listener, client): KEPT.append(listener.accept()[0])
@pytest.mark.allow_socket_leaks("one is wanted", count=1)
def test_allowed(listener):
    with socket.create_connection(listener.getsockname()):
        KEPT.append(listener.accept()[0])
def test_other(): pass
"""


def test_connection_of_a_server_is_told_once(tmp_path):
    """Its test is over, and its client has gone: two reasons to look at it, one socket."""
    write(tmp_path, test_a=ACCEPTED)
    outcome = run_suite(tmp_path)
    assert [leak["test"] for leak in outcome.leaks if leak["status"] == "error"] == ["test_a.py::test_leak"]
    assert len({leak["inode"] for leak in outcome.leaks}) == len(outcome.leaks)
    assert "1 socket left open, opened at test_a.py:16 in test_leak" in outcome.text
