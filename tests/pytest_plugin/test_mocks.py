"""What tests put in the place of the system's functions: they do not answer our calls, nor count them."""

import pytest

from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

CONFTEST = """
import builtins, inspect, io, os, pathlib, select, socket, sys, threading, time
import pytest
NAMES = {"os": os, "io": io, "pathlib": pathlib}
FUNCTIONS = {id(getattr(os, name)) for name in dir(os) if inspect.isbuiltin(getattr(os, name))} | {id(open)}

class Nothing:
    "Stands for a module of a file system that has no /proc."
    path, sep = os.path, os.sep
    def __getattr__(self, name):
        return refuse

def refuse(*args, **kwargs):
    raise FileNotFoundError("there is no such file in the fake file system")

@pytest.fixture
def fs(monkeypatch):
    "As pyfakefs does: modules by their names, functions wherever they were imported to, by whatever name."
    for module in [module for name, module in sys.modules.items() if name.startswith("sockguard") or name == "test_a"]:
        for name, thing in list(vars(module).items()):
            if name in NAMES and inspect.ismodule(thing):
                monkeypatch.setattr(module, name, Nothing())
            if id(thing) in FUNCTIONS:
                monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(builtins, "open", refuse)

@pytest.fixture(scope="module", autouse=True)
def server():
    "Lives on, so that tests are judged before they are torn down, too; and its threads may close something."
    listener = socket.create_server(("127.0.0.1", 0))
    is_over, accepted, kept = threading.Event(), threading.Semaphore(0), []
    def accept():
        while not is_over.is_set():
            sock = listener.accept()[0]
            kept.append(sock)  # hangs up never
            accepted.release()
    thread = threading.Thread(target=accept)
    thread.start()
    yield listener.getsockname(), accepted
    is_over.set()
    socket.create_connection(listener.getsockname()).close()
    thread.join()
    for sock in (listener, *kept):
        sock.close()
"""
TESTS = """
import os, socket, time
from unittest import mock
import pytest
KEPT, TORN_DOWN = [], []

@pytest.fixture(autouse=True)
def torn_down(request):
    yield
    TORN_DOWN.append(request.node.name)

@pytest.mark.parametrize("name", "stat fstat listdir readlink open close dup pread getpid waitid".split())
def test_mocked_function(monkeypatch, torn_down, name):
    with socket.socket(): pass
    monkeypatch.setattr(os, name, mock.Mock(side_effect=FileNotFoundError))

def test_mocked_listing(monkeypatch): monkeypatch.setattr(os, "listdir", lambda path=".": ["a.txt"])

def test_fake_file_system(fs, server):
    with socket.socket(): pass

def test_leak_in_fake_file_system(fs, server): KEPT.append(socket.socket())
def test_leak_of_server_in_fake_file_system(fs, server):
    address, accepted = server
    socket.create_connection(address).close()
    assert accepted.acquire(timeout=20)
def test_next(): pass

def test_clock_is_not_read(monkeypatch):
    monkeypatch.setattr(time, "monotonic", mock.Mock(side_effect=[0.0, 1.0]))
    before = time.monotonic()
    with socket.socket(): pass
    assert time.monotonic() - before == 1.0

@pytest.fixture
def counted(monkeypatch):
    mocks = [mock.Mock(wraps=getattr(os, name)) for name in ("fstat", "getpid", "stat", "listdir")]
    for one in mocks: monkeypatch.setattr(os, one._mock_wraps.__name__, one)
    yield
    for one in mocks: one.assert_not_called()

def test_calls_are_not_counted(counted):
    with socket.socket() as a, a.dup(): pass

def test_all_were_torn_down(request):
    assert TORN_DOWN == [item.name for item in request.session.items][:-1]
"""
GUILTY = {"test_leak_in_fake_file_system", "test_leak_of_server_in_fake_file_system"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run of all mocks, in the order of the file."""
    folder = tmp_path_factory.mktemp("mocks")
    write(folder, conftest=CONFTEST, test_a=TESTS)
    return run_suite(folder, "-s", "-o", "socket_leaks_grace=0.2")  # pytest, too, calls os.fstat, to capture


def test_mocks_do_not_hide_leaks(outcome):
    """Each is charged to its test, and to no other one."""
    assert outcome.blamed() == GUILTY


def test_mocks_do_not_disturb_us_nor_we_them(outcome):
    """Nobody errs but for leaks, every call that a mock counts is the test's own, and all fixtures are torn down."""
    assert {error.rpartition("::")[2] for error in outcome.errors} == GUILTY
    assert "FAILED" not in outcome.text
    assert "could not be judged" not in outcome.text


def test_cause_is_told_in_a_fake_file_system(outcome):
    """What the server has of a client that hung up is known by asking the system itself."""
    [leak] = [leak for leak in outcome.leaks if str(leak["test"]).endswith("test_leak_of_server_in_fake_file_system")]
    assert leak["state"] == "CLOSE_WAIT"
    assert leak["cause"] not in ("retained", "unclosed")


FROZEN = """
import asyncio, socket, sys, threading, time
from unittest import mock
import pytest
import sockguard
KEPT = []

@pytest.fixture(scope="module", autouse=True)
def thread():
    "Somebody who could close what is open, so that the judgement waits for him."
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    yield
    is_over.set()
    thread.join()

@pytest.fixture(scope="module", autouse=True)
def frozen(thread):
    "As freezegun does: each function of the time stands still, wherever it was imported to, by whatever name."
    originals = {id(getattr(time, name)): getattr(time, name)() for name in ("time", "monotonic", "perf_counter")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in [module for module in sys.modules.values() if hasattr(module, "__dict__")]:
            for name, thing in list(vars(module).items()):
                if id(thing) in originals:
                    monkeypatch.setattr(module, name, lambda now=originals[id(thing)]: now)
        monkeypatch.setattr(time, "sleep", mock.Mock(side_effect=AssertionError("no test may sleep")))
        yield

def test_leak(): KEPT.append(socket.socket())
def test_innocent(): pass
def test_block():
    with pytest.raises(sockguard.SocketLeakError), sockguard.no_socket_leaks(grace=0.1):
        KEPT.append(socket.socket())
def test_block_in_a_loop():
    async def work():
        async with sockguard.no_socket_leaks(grace=0.1):
            KEPT.append(socket.socket())
    with pytest.raises(sockguard.SocketLeakError):
        asyncio.run(work())
def test_closed_meanwhile_in_a_loop():
    async def work():
        async with sockguard.no_socket_leaks(grace=20):
            sock = socket.socket()
            asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(sock.close))
    asyncio.run(work())
"""


def test_time_is_frozen(tmp_path):
    """Waiting for what is about to be closed takes as long as it should, and no mock of `time.sleep` is asked."""
    write(tmp_path, test_a=FROZEN)
    outcome = run_suite(tmp_path, "-o", "socket_leaks_grace=0.2")
    assert (outcome.errors, len(outcome.passed)) == (["test_a.py::test_leak"], 5)
    assert "FAILED" not in outcome.text


MISHAP = """
import socket, sys
import pytest
TORN_DOWN = []

@pytest.fixture(scope="module", autouse=True)
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener

@pytest.fixture
def torn_down():
    yield
    TORN_DOWN.append(1)

@pytest.fixture
def fault(monkeypatch, torn_down):
    def fail(*args): raise {error}
    monkeypatch.setattr("sockguard._engine.blame.ledger.Ledger.abandoned_early", fail)

def test_judged_with_a_fault(fault): pass
def test_next(): assert TORN_DOWN == [1]
"""


def test_failure_of_ours_is_told_and_harms_nobody(tmp_path):
    """The test passes, its fixtures are torn down, and the summary says that it was not judged."""
    write(tmp_path, test_a=MISHAP.format(error="RuntimeError('our own')"))
    outcome = run_suite(tmp_path, "-p", "no:asyncio", "-W", "error")
    assert (outcome.status, outcome.errors, len(outcome.passed)) == (0, [], 2)
    assert "test_a.py::test_judged_with_a_fault could not be judged: RuntimeError('our own')" in outcome.text


def test_interruption_of_the_judgement_comes_after_the_teardown(tmp_path):
    """A time-out that falls into it fails the test, and its fixtures are torn down all the same."""
    write(tmp_path, test_a=MISHAP.format(error="pytest.fail.Exception('Timeout')"))
    outcome = run_suite(tmp_path)
    assert outcome.errors == ["test_a.py::test_judged_with_a_fault"]
    assert "test_a.py::test_next" in outcome.passed


EXHAUSTED = """
import os, resource, socket
import pytest

@pytest.fixture(scope="module", autouse=True)
def server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener

@pytest.fixture
def files():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    opened = []
    yield opened
    for fd in opened: os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)

def test_takes_all_descriptors(files):
    with pytest.raises(OSError):
        while True: files.append(os.open("/dev/null", os.O_RDONLY))
def test_next(files): assert not files
"""


def test_no_descriptor_is_left_to_look_with(tmp_path):
    """A test that takes them all for itself is torn down, and passes."""
    write(tmp_path, test_a=EXHAUSTED)
    outcome = run_suite(tmp_path)
    assert (outcome.status, outcome.errors, len(outcome.passed)) == (0, [], 2)
