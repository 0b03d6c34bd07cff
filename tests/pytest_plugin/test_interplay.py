"""Beside other plugins, loops and kinds of tests: the leak is found and charged right, and event loops are no leaks."""

import shutil

import pytest

from pytest_plugin.suite import SUITES, run_suite, write

pytestmark = pytest.mark.slow

LEAKS = {
    "test_leak_writer_in_module_loop",
    "test_leak_parked_task",
    "test_leak_of_server_in_module_loop",
    "test_leak_in_function_loop",
    "test_leak_uvloop",
    "test_leak_uvloop_forgotten",
    "test_leak_uvloop_server",
    "test_leak_unittest",
    "test_leak_isolated",
    "setup_class",
    "test_leak_anyio[asyncio]",
    "test_leak_anyio[trio]",
    "test_leak_subtests",
    "test_loops.example",
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run of all loops, in the order of the file."""
    for package in ("anyio", "pytest_asyncio", "trio", "uvloop"):
        pytest.importorskip(package)
    if int(pytest.__version__.partition(".")[0]) < 9:
        pytest.skip("the suite uses subtests, which pytest has since 9")
    folder = tmp_path_factory.mktemp("loops")
    shutil.copy(SUITES / "conftest_server.py", folder / "conftest.py")
    shutil.copy(SUITES / "loops.py", folder / "test_loops.py")
    return run_suite(folder, "--doctest-modules", "--asyncio-mode=strict")


def test_every_loop_and_kind_of_test_is_judged(outcome):
    """Loops of asyncio, of function and module scope, uvloop, anyio, trio, unittest, doctest, subtests."""
    assert outcome.blamed() == LEAKS


def test_whoever_is_charged_errs(outcome):
    """Nobody errs who is not charged."""
    erred = [error for error in outcome.errors if error.startswith("test_loops.py::")]
    assert {error.rpartition("::")[2] for error in erred} == LEAKS


def test_place_of_a_socket_opened_in_c_is_known(outcome):
    """What uvloop connects in C: the line that asked for it is told all the same."""
    [leak] = [leak for leak in outcome.leaks if leak["test"] == "test_loops.py::test_leak_uvloop"]
    assert leak["created_by"][0] == "test_loops.test_leak_uvloop.main"


FORKING = """
import os, pickle
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):  # as pytest-forked does
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        os.write(write, pickle.dumps([(r.when, r.outcome, str(r.longrepr)) for r in reports]))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        for when, outcome, text in pickle.loads(file.read()):
            print("forked", item.name, when, outcome, text.partition(chr(10))[0])
    os.waitpid(pid, 0)
    return True
"""


def test_forked_tests_are_judged_in_the_child(tmp_path):
    """A test that runs in a forked child is judged there; its parent's sockets are baseline."""
    test = (
        "import socket\nKEPT = [socket.socket()]\n"
        "def test_a(): KEPT.append(socket.socket())\ndef test_b(): socket.socket().close()"
    )
    write(tmp_path, conftest=FORKING, test_a=test)
    told = [line for line in run_suite(tmp_path, "-s").text.splitlines() if "teardown" in line]
    assert [line.split("forked ")[1].partition(":")[0] for line in told] == [
        "test_a teardown failed SocketLeakError",
        "test_b teardown passed None",
    ]


@pytest.mark.parametrize("options", [["-p", "no:asyncio"], ["-p", "no:terminal"], ["-p", "no:unraisableexception"]])
def test_works_without_other_plugins(tmp_path, options):
    """No other plugin is needed, not even the one that prints."""
    write(tmp_path, test_a="import socket\nKEPT = []\ndef test_a(): KEPT.append(socket.socket())")
    outcome = run_suite(tmp_path, *options)
    assert (outcome.status, outcome.blamed()) == (1, {"test_a"})


def test_beside_a_guard(tmp_path):
    """The guard's own sockets are no leaks, and both may wrap accept()."""
    test = (
        "import socket, sockguard\n"
        "def test_a():\n"
        "    with sockguard.install() as guard, socket.create_server(('127.0.0.1', 0)) as listener:\n"
        "        with socket.create_connection(listener.getsockname()), listener.accept()[0]:\n"
        "            guard.tick(0.0)\n"
    )
    write(tmp_path, test_a=test)
    assert (run_suite(tmp_path).errors, run_suite(tmp_path).status) == ([], 0)


def test_warnings_as_errors_make_no_difference(tmp_path):
    """With ResourceWarning as an error the right test is charged, where pytest alone fails whoever comes after it."""
    test = (
        "import socket, gc\n"
        "def test_a():\n    cycle = [socket.socket()]\n    cycle.append(cycle)\n"
        "def test_b(): gc.collect()"
    )
    write(tmp_path, test_a=test)
    warnings = ("-W", "error::ResourceWarning", "-W", "error::pytest.PytestUnraisableExceptionWarning")
    outcome = run_suite(tmp_path, *warnings)
    assert outcome.errors == ["test_a.py::test_a"]
    assert outcome.passed == ["test_a.py::test_a", "test_a.py::test_b"]
    assert "FAILED test_a.py::test_b" in run_suite(tmp_path, *warnings, leaks=None).text


def test_a_block_takes_no_leak_of_another_test(tmp_path):
    """What waits for its loop to run is charged to its test, although another one asks within a block meanwhile."""
    write(
        tmp_path,
        test_a="""
import asyncio, pytest, socket, sockguard
KEPT = []
@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()
def test_leak(loop):
    async def leak():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            KEPT.append(await asyncio.open_connection(*listener.getsockname()))
            listener.accept()[0].close()
    loop.run_until_complete(leak())
def test_block(loop):
    loop.run_until_complete(asyncio.sleep(0.4))
    with sockguard.no_socket_leaks(): pass
def test_last(loop): loop.run_until_complete(asyncio.sleep(0.01))
""",
    )
    assert run_suite(tmp_path).blamed() == {"test_leak"}
