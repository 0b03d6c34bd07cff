"""False alarms: tests that close what they open, in every way that we know of, are not blamed, in whatever order."""

import shutil

import pytest

from pytest_plugin.suite import SUITES, run_suite, write

pytestmark = pytest.mark.slow


def test_innocent_tests_pass_in_any_order(tmp_path):
    """Shuffled, none errs and none is charged; `benchmarks/bench_plugin_innocents.py` does so a thousandfold."""
    shutil.copy(SUITES / "conftest_server.py", tmp_path / "conftest.py")
    shutil.copy(SUITES / "innocents.py", tmp_path / "test_innocents.py")
    outcome = run_suite(tmp_path, randomly=True)
    assert (outcome.errors, outcome.leaks, outcome.status) == ([], [], 0)
    assert len(outcome.passed) >= 50


PROCESSES = """
import multiprocessing, socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
import pytest
KEPT = []

@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pool(method):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(abs, -1).result(timeout=60) == 1

def test_socket_sent_to_another_process():
    with socket.socket() as sock, ForkingPickler.loads(ForkingPickler.dumps(sock)): pass

def test_next(): pass
def test_leak_of_a_listener():
    from multiprocessing.connection import Listener
    KEPT.append(Listener())
"""


def test_what_multiprocessing_keeps_is_nobodys(tmp_path):
    """Neither the listener of its fork server, which that server has, nor the one by which it shares sockets."""
    write(tmp_path, test_a=PROCESSES)
    outcome = run_suite(tmp_path, "-o", "socket_leaks_grace=1")
    assert (outcome.errors, len(outcome.passed)) == (["test_a.py::test_leak_of_a_listener"], 5)
