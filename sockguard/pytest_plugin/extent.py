"""How much of the suite has run, and was judged? What was not found this time is gone only if all of it was."""

import glob
import os
from collections.abc import Iterable

import pytest

__all__ = ["Extent"]

NARROWING = ("collectonly", "deselect", "ignore", "ignore_glob", "lf", "setuponly", "setupplan")
"""Options after which something does not run, not all of which show in `pytest_deselected`."""


class Extent:
    """Takes note of what is left out.

    Args:
        config: Of this run.
        is_part: Some tests are not judged anyway.
    """

    def __init__(self, config: pytest.Config, *, is_part: bool) -> None:
        self.is_part = is_part or any(config.getoption(name, None) for name in NARROWING) or not _covers_all(config)
        """Some tests were not chosen."""
        self._judged: set[str] = set()
        self._unjudged: set[str] = set()

    @property
    def judged(self) -> set[str]:
        """The node ids of the tests that ran from end to end."""
        return self._judged - self._unjudged

    @property
    def is_whole(self) -> bool:
        """Tells whether each test of the suite ran from end to end."""
        return bool(self._judged) and not (self._unjudged or self.is_part)

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Some tests are left out by name, by marker, or as they passed the last time."""
        self.is_part = self.is_part or any(True for _ in items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of tests may be skipped as a whole, or be broken."""
        self.is_part = self.is_part or not report.passed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that failed, or was skipped, may have come to an end before it opened anything."""
        if not (report.passed or str(report.longrepr).startswith("SocketLeakError: ")):
            self._unjudged.add(report.nodeid)
        elif report.when == "teardown":
            self._judged.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """The run may have stopped early."""
        has_ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        self.is_part = self.is_part or not has_ended or bool(session.shouldstop or session.shouldfail)


def _covers_all(config: pytest.Config) -> bool:
    """Tells whether the paths of the command line, if any, take in all that the ini file calls the suite."""
    root = str(config.rootpath)
    testpaths = [path for name in config.getini("testpaths") for path in glob.glob(os.path.join(root, name))]
    given = [os.path.join(config.invocation_params.dir, arg) for arg in config.args]
    return all(any(_is_within(path, arg) for arg in given) for path in testpaths or [root])


def _is_within(path: str, folder: str) -> bool:
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(os.path.join(folder, ""))
