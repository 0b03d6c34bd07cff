"""Every kind of leak fails the test that made it, and no other; in order, shuffled, and spread over processes."""

import shutil

import pytest

from pytest_plugin.suite import SUITES, run_suite

pytestmark = pytest.mark.slow

LEAKS = {
    "test_leak_refcount": "unclosed",
    "test_leak_cycle": "unclosed",
    "test_leak_module_global": "retained",
    "test_leak_stored_writer": "retained",
    "test_leak_forgotten_stream": "unclosed",
    "test_leak_parked_task": "retained",
    "test_leak_subprocess": "kept_by_child",
    "test_leak_executor_thread": "retained",
    "test_leak_executor_thread_again": "retained",
    "test_leak_forked_child": "kept_by_child",
    "test_leak_accept_queue": "not_accepted",
    "test_leak_server": "eof_unread",
    "test_leak_client_pool": "retained",
    "test_leak_udp": "retained",
    "test_leak_unix": "retained",
    "test_leak_late": "retained",
    "test_leak_of_one_parameter[True]": "retained",
}
FIXTURE = "leaking_client"


def copy(folder):
    shutil.copy(SUITES / "conftest_server.py", folder / "conftest.py")
    shutil.copy(SUITES / "kinds.py", folder / "test_kinds.py")
    return folder


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run in the order of the file."""
    return run_suite(copy(tmp_path_factory.mktemp("kinds")))


@pytest.mark.parametrize(("test", "cause"), LEAKS.items())
def test_leak_is_charged_to_its_test(outcome, test, cause):
    """The test that leaks is the one that errs, once, and the cause is told."""
    [leak] = [leak for leak in outcome.leaks if leak["test"] == f"test_kinds.py::{test}"]
    assert (leak["status"], leak["cause"]) == ("error", cause)
    assert outcome.errors.count(f"test_kinds.py::{test}") == 1


def test_fixture_of_wider_scope_is_charged_itself(outcome):
    """What a module fixture leaves open is its own, though a test had it opened; the message says which test."""
    [leak] = [leak for leak in outcome.leaks if str(leak["owner"]).startswith("module fixture")]
    assert leak["owner"] == f"module fixture '{FIXTURE}' of conftest.py"
    assert leak["opened_in"] == "test_kinds.py::test_innocent_user_of_a_leaking_fixture"
    assert f"conftest.py::{FIXTURE}" in outcome.errors


def test_nobody_else_is_charged(outcome):
    """Innocent tests pass, those that fail anyway are not judged, and nothing else is found."""
    assert outcome.blamed() == {*LEAKS, FIXTURE}
    assert sorted(outcome.errors) == sorted([f"test_kinds.py::{test}" for test in LEAKS] + [f"conftest.py::{FIXTURE}"])


def test_a_leak_lets_the_run_fail(outcome):
    """The exit status is that of failing tests."""
    assert outcome.status == 1


def test_order_does_not_matter(tmp_path):
    """Shuffled, the same tests are charged; but for the late one, which may come too late for the server."""
    shuffled = run_suite(copy(tmp_path), "--deselect", "test_kinds.py::test_leak_late", randomly=True)
    assert shuffled.blamed() == {*LEAKS, FIXTURE} - {"test_leak_late"}


@pytest.mark.parametrize("dist", ["load", "loadfile"])
def test_workers_of_xdist_tell_the_same(tmp_path, dist):
    """Spread over processes, the same tests err, and the report has everything."""
    pytest.importorskip("xdist")
    shutil.copy(SUITES / "kinds.py", tmp_path / "test_more.py")
    spread = run_suite(copy(tmp_path), "-n2", f"--dist={dist}", "--deselect", "test_more.py", "-k", "not late")
    assert spread.blamed() == {*LEAKS, FIXTURE} - {"test_leak_late"}
    expected = {f"test_kinds.py::{test}" for test in LEAKS if test != "test_leak_late"}
    assert {error for error in spread.errors if error.startswith("test_kinds")} == expected
    assert f"conftest.py::{FIXTURE}" in spread.errors
