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


ASKING = """
import socket, pytest
KEPT = []
def test_other(): KEPT.append(socket.socket())
@pytest.mark.socket_leaks
def test_marked(): KEPT.append(socket.socket())
@pytest.mark.socket_leaks("warn")
def test_warned(): KEPT.append(socket.socket())
def test_fixture(no_socket_leaks): KEPT.append(socket.socket())
"""


def test_test_that_asks_by_itself_in_a_worker(tmp_path):
    """The main process, which never sees it, tells of it all the same, and writes the file."""
    pytest.importorskip("xdist")
    write(tmp_path, test_a=ASKING)
    outcome = run_suite(tmp_path, "-n2", leaks=None)
    assert outcome.blamed() == {"test_marked", "test_fixture"}
    assert sorted(outcome.errors) == ["test_a.py::test_fixture", "test_a.py::test_marked"]
    assert "1 opened at test_a.py:8 in test_warned" in outcome.text
    off = run_suite(tmp_path, "-n2", leaks="off")
    assert (off.status, off.report) == (0, {})


def test_nothing_is_told_of_workers_where_nobody_asks(tmp_path):
    """No line, and nothing of ours is loaded in the main process."""
    pytest.importorskip("xdist")
    conftest = (
        "import sys\n"
        "def pytest_unconfigure(config):\n"
        "    if not hasattr(config, 'workerinput'):\n"
        "        print('loaded:', *sorted(name for name in sys.modules if 'sockguard.pytest_plugin' in name))"
    )
    write(tmp_path, test_a="def test_a(): pass", conftest=conftest)
    text = run_suite(tmp_path, "-n1", "-s", "--socket-leaks-report=", leaks=None).text
    assert "loaded: sockguard.pytest_plugin sockguard.pytest_plugin.entry\n" in text
    assert "socket leaks" not in text


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_header(tmp_path, options):
    """Says once what is done, whoever runs the tests."""
    if options:
        pytest.importorskip("xdist")
    write(tmp_path, test_a="def test_a(): pass")
    text = run_suite(tmp_path, *options, "-o", "socket_leaks_ignore=port:1").text
    assert text.count("socket leaks: error (grace 10 s, 1 ignore lines)") == 1


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
