"""Where the plugin works, and where it says that it cannot: on other systems, in workers, in a worker that crashes."""

import pytest

from elsewhere import BE_ELSEWHERE, missing_on, on_each_system
from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

SUITE = """
import socket
KEPT = []
def test_leak():
    KEPT.append(socket.socket())
    assert "__del__" not in vars(socket.socket)
def test_demands(no_socket_leaks): pass
def test_asks(socket_leak_guard): raise AssertionError
"""
SAYS = "finding sockets that tests leave open is not available: {} is not Linux."
OTHERS = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest")


def run_on(system, folder, *options, leaks="error"):
    """Runs a suite where that system is imitated, once pytest has begun."""
    # The main process of workers starts them by names that are missing there; so it has but the name of that system.
    missing = {} if "-n2" in options else missing_on(system)
    write(folder, test_a=SUITE, conftest=BE_ELSEWHERE.format(missing=missing, system=system))
    return run_suite(folder, *OTHERS, *options, leaks=leaks)


@on_each_system
@pytest.mark.parametrize("leaks", ["error", None])
def test_elsewhere_it_warns_once_and_judges_nothing(tmp_path, system, leaks):
    """Whether the run asks or some tests do; one that asks in its middle is skipped. Nothing is wrapped or written."""
    outcome = run_on(system, tmp_path, leaks=leaks)
    assert outcome.status == 0
    assert outcome.passed == ["test_a.py::test_leak", "test_a.py::test_demands"]
    assert outcome.text.count("PytestConfigWarning: " + SAYS.format(system)) == 1
    assert "1 skipped, 1 warning" in outcome.text
    assert outcome.report == {}


def test_elsewhere_a_baseline_is_left_as_it_is(tmp_path):
    """Nothing was looked at, so it must not be written as if all were well."""
    (tmp_path / "known.json").write_text("{}")
    run_on("darwin", tmp_path, "--socket-leaks-baseline=known.json", leaks="warn")
    assert (tmp_path / "known.json").read_text() == "{}"


def test_elsewhere_warnings_may_be_errors(tmp_path):
    """Then it is a line on stderr, and the tests run."""
    outcome = run_on("darwin", tmp_path, "-W", "error::pytest.PytestConfigWarning")
    assert (outcome.status, len(outcome.passed)) == (0, 2)
    assert outcome.text.splitlines()[0].startswith("sockguard: " + SAYS.format("darwin"))


def test_elsewhere_workers_say_nothing(tmp_path):
    """With pytest-xdist the main process has said it."""
    pytest.importorskip("xdist")
    outcome = run_on("darwin", tmp_path, "-n2")
    assert outcome.status == 0
    assert "1 warning in" in outcome.text


CRASHING = """
import os, socket
KEPT = []
def test_leak_before(): KEPT.append(socket.socket())
def test_crash(): os._exit(3)
def test_leak_after(): KEPT.append(socket.socket())
"""


def test_worker_that_crashes(tmp_path):
    """Its tests are reported as far as it came, by it and by who takes its place; the main process goes on."""
    pytest.importorskip("xdist")
    write(tmp_path, test_a=CRASHING)
    outcome = run_suite(tmp_path, "-n1")
    assert outcome.errors == ["test_a.py::test_leak_before", "test_a.py::test_leak_after"]
    assert "worker 'gw0' crashed while running 'test_a.py::test_crash'" in outcome.text
    assert "INTERNALERROR" not in outcome.text
    assert outcome.blamed() == {"test_leak_after"}  # the other record went with the process that had it


def test_main_process_of_workers_looks_at_nothing(tmp_path):
    """What it opens itself for its workers is no affair of anybody."""
    pytest.importorskip("xdist")
    conftest = (
        "import socket\n"
        "def pytest_sessionfinish(session):\n"
        "    if not hasattr(session.config, 'workerinput'):\n"
        "        judges = session.config.pluginmanager.has_plugin('sockguard-court')\n"
        "        print('wrapped:', '__del__' in vars(socket.socket), judges)"
    )
    write(tmp_path, test_a="def test_a(): pass", conftest=conftest)
    assert "wrapped: False False" in run_suite(tmp_path, "-n1", "-s").text
