"""Whose time it is: errors in setup and teardown, fixtures that fail, and whoever ends the run with Ctrl-C."""

import pytest

from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

HEAD = """
import pytest, socket
KEPT = []
def connect(): KEPT.append(socket.socket())
"""
FAILING = (
    HEAD
    + """
@pytest.fixture
def fails(): connect(); raise ValueError
@pytest.fixture
def fails_later():
    yield
    connect()
    raise ValueError
@pytest.fixture(scope="module")
def module_fails(): connect(); raise ValueError
@pytest.fixture(scope="module")
def module_skips(): connect(); pytest.skip("not here")
@pytest.fixture(scope="class")
def class_fails_later():
    yield
    connect()
    raise ValueError
def test_setup(fails): pass
def test_leak_after_setup(): connect()
def test_teardown(fails_later): pass
def test_leak_after_teardown(): connect()
def test_module(module_fails): pass
def test_module_again(module_fails): pass
def test_skipped(module_skips): pass
def test_leak_after_module(): connect()
class TestClass:
    def test_class(self, class_fails_later): pass
def test_skips(): connect(); pytest.skip("for a reason")
def test_fails(): connect(); raise ValueError
def test_leak_at_last(): connect()
"""
)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """One run of them all."""
    folder = tmp_path_factory.mktemp("failing")
    write(folder, test_a=FAILING)
    return run_suite(folder)


def test_who_failed_is_not_charged_and_nobody_for_him(failing):
    """Errors in setup, call and teardown excuse; the test that comes next is judged for itself."""
    leaks = {"test_leak_after_setup", "test_leak_after_teardown", "test_leak_after_module", "test_leak_at_last"}
    assert failing.blamed() == leaks | {"class_fails_later"}
    assert len(failing.leaks) == 5


def test_errors_are_told_as_without_the_plugin(failing):
    """None is replaced by ours, and none is told twice."""
    assert failing.text.count("E   ValueError") == 6
    for test in ("test_setup", "test_teardown", "test_module", "test_module_again", "TestClass::test_class"):
        assert failing.errors.count(f"test_a.py::{test}") == 1


def test_asked_for_failed_tests_are_charged(tmp_path):
    """With `socket_leaks_check_failed` also those whose setup failed; the error stays what it is."""
    write(tmp_path, test_a=HEAD + "@pytest.fixture\ndef f(): connect(); raise ValueError\ndef test_a(f): pass\n")
    outcome = run_suite(tmp_path, "-o", "socket_leaks_check_failed=true")
    assert [(leak["test"], leak["fixture"]) for leak in outcome.leaks] == [("test_a.py::test_a", "f")]
    assert outcome.errors == ["test_a.py::test_a"] * 2


@pytest.mark.parametrize("where", ["setup", "call", "teardown"])
def test_interrupted(tmp_path, where):
    """Ctrl-C ends the run as it does without the plugin: no leak is told on top, and nothing of ours fails."""
    steps = {step: "raise KeyboardInterrupt" if step == where else "pass" for step in ("setup", "call", "teardown")}
    text = (
        "@pytest.fixture\ndef f():\n    connect()\n    {setup}\n    yield\n    {teardown}\n"
        "def test_a(f):\n    {call}\ndef test_b(): pass\n"
    )
    write(tmp_path, test_a=HEAD + text.format(**steps))
    outcome = run_suite(tmp_path)
    assert (outcome.status, outcome.errors, outcome.blamed()) == (2, [], set())
    assert "KeyboardInterrupt" in outcome.text
    assert "sockguard/" not in outcome.text
    assert outcome.report["schema"] == 1  # the file is written all the same
