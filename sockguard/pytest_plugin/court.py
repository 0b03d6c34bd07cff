"""Judges each test when its teardown is over, and has those fail that left something open."""

import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from sockguard._core.leftovers import Leftover, story
from sockguard._engine.blame.judging import Judge
from sockguard._engine.blame.tracking import Tracking
from sockguard._engine.blame.verdicts import Charge
from sockguard.pytest_plugin.owners import PytestOwner, TestOwner
from sockguard.pytest_plugin.phases import Phases
from sockguard.pytest_plugin.records import Records
from sockguard.pytest_plugin.settings import Settings
from sockguard.testing import SocketLeakError

__all__ = ["Court"]


class Court:
    """Sits around everything else that is done at the end of a test."""

    def __init__(self, tracking: Tracking, settings: Settings, phases: Phases, records: Records) -> None:
        self._tracking = tracking
        self._settings = settings
        self._phases = phases
        self._records = records

    def header(self) -> str:
        """Says in a line what is done."""
        settings = self._settings
        action = "off but for tests that ask for it" if settings.action == "off" else settings.action
        ignored = f", {len(settings.ignore)} ignore lines" if settings.ignore else ""
        return f"socket leaks: {action} (grace {settings.grace:g} s{ignored})"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: "pytest.CallInfo[Any]") -> Generator[None, Any, Any]:
        """Excuses a test that did not pass; shows what another left open without our own stack."""
        report: pytest.TestReport = yield
        test = self._phases.test
        if test is not None and not report.passed and report.when != "teardown" and not self._settings.checks_failed:
            test.is_excused = True
        if call.excinfo is not None and isinstance(call.excinfo.value, SocketLeakError) and report.when == "teardown":
            report.longrepr = f"SocketLeakError: {call.excinfo.value}"
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        """Judges the test, the fixtures that ended with it, and whatever others left since they were judged."""
        test, is_over = self._phases.test, False
        if test is None:
            yield
            return
        early = [] if test.is_excused or not self._tracking.ledger.owners else self._charges(test, is_early=True)
        try:
            yield
            is_over = True
        finally:
            test.is_over = True
            test.is_excused = test.is_excused or not is_over
        self._judge(test, early)

    def _charges(self, test: TestOwner, *, is_early: bool = False) -> list[Charge]:
        judge = Judge(self._tracking.ledger, self._tracking.queues, test, is_early=is_early)
        for seconds in judge.waits(test.terms.grace):
            time.sleep(seconds)
        return judge.conclude()

    def _judge(self, test: TestOwner, early: list[Charge]) -> None:
        charges = early + self._charges(test)
        self._phases.test = self._tracking.ledger.births.background = None
        own: list[Leftover] = []
        for owner, leftovers in _by_owner(charges):
            if (failed := self._records.judged(owner, leftovers)) and owner is test:
                own = failed
            elif failed:
                self._records.tell_of(owner.nodeid, owner.location, f"SocketLeakError: {story(owner.name, failed)}")
        if own:
            raise SocketLeakError(test.name, own)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judges, for the last time, what was opened after the last test by somebody whose turn was over."""
        nobody = self._tracking.ledger.baseline
        judge = Judge(self._tracking.ledger, self._tracking.queues, nobody)
        for seconds in judge.waits(self._settings.grace):
            time.sleep(seconds)
        for owner, leftovers in _by_owner(judge.conclude()):
            if failed := self._records.judged(owner, leftovers):
                self._records.tell_of(owner.nodeid, owner.location, f"SocketLeakError: {story(owner.name, failed)}")
        if session.testsfailed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _by_owner(charges: list[Charge]) -> Iterator[tuple[PytestOwner, list[Leftover]]]:
    """Sorts charges by those whom a report can be made of."""
    by_owner: dict[PytestOwner, list[Leftover]] = {}
    for owner, leftover in charges:
        if isinstance(owner, PytestOwner) and not owner.is_excused:
            by_owner.setdefault(owner, []).append(leftover)
    yield from by_owner.items()
