"""False alarms: tests that close what they open, in every way that we know of, are not blamed, in whatever order."""

import shutil

import pytest

from pytest_plugin.suite import SUITES, run_suite

pytestmark = pytest.mark.slow


def test_innocent_tests_pass_in_any_order(tmp_path):
    """Shuffled, none errs and none is charged; `benchmarks/bench_plugin_innocents.py` does so a thousandfold."""
    shutil.copy(SUITES / "conftest_server.py", tmp_path / "conftest.py")
    shutil.copy(SUITES / "innocents.py", tmp_path / "test_innocents.py")
    outcome = run_suite(tmp_path, randomly=True)
    assert (outcome.errors, outcome.leaks, outcome.status) == ([], [], 0)
    assert len(outcome.passed) >= 50
