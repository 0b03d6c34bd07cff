"""Judges each test when its teardown is over, and has those fail that left something open."""

from collections.abc import Generator
from typing import Any

import pytest

from sockguard._core.leftovers import Leftover, story
from sockguard._engine.blame.judging import Judge
from sockguard._engine.blame.ledger import Owner
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
        early, interruption = self._judge_early(test)
        try:
            yield
            is_over = True
        finally:
            test.is_over = True
            test.is_excused = test.is_excused or not is_over
        if interruption is not None:
            raise interruption
        self._judge(test, early)

    def _judge_early(self, test: TestOwner) -> tuple[list[Charge], BaseException | None]:
        """Judges what servers keep; if somebody ends that by an exception (a time-out), it is raised later.

        Whatever happens in here, the fixtures have to be torn down.
        """
        if not self._tracking.ledger.owners or test.is_excused:
            return [], None
        try:
            return self._sit(test, is_early=True), None
        except BaseException as interruption:  # noqa: BLE001 - see above
            return [], interruption

    def _sit(self, test: TestOwner, *, is_early: bool = False) -> list[Charge]:
        """Judges. If that fails it is our failure, and no test errs for it: it is told in the summary."""
        try:
            return self._judge_of(test, is_early=is_early).sit(test.terms.grace)
        except Exception as error:  # noqa: BLE001
            self._records.mishaps.append(f"{test.nodeid} could not be judged: {error!r}")
            return []

    def _judge_of(self, owner: Owner, *, is_early: bool = False) -> Judge:
        return Judge(self._tracking.ledger, self._tracking.queues, owner, is_early=is_early)

    def _judge(self, test: TestOwner, early: list[Charge]) -> None:
        charges = early + self._sit(test)
        self._phases.test = self._tracking.ledger.births.background = None
        failing = self._failing(charges)
        own = failing.pop(test, [])
        self._tell_of(failing)
        if own:
            raise SocketLeakError(test.name, own)

    def _failing(self, charges: list[Charge]) -> dict[PytestOwner, list[Leftover]]:
        """Takes down what was found; gives those who fail, and what for."""
        judged = {owner: self._records.judged(owner, leftovers) for owner, leftovers in _by_owner(charges).items()}
        return {owner: leftovers for owner, leftovers in judged.items() if leftovers}

    def _tell_of(self, failing: dict[PytestOwner, list[Leftover]]) -> None:
        for owner, leftovers in failing.items():
            self._records.tell_of(owner.nodeid, owner.location, f"SocketLeakError: {story(owner.name, leftovers)}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judges, for the last time, what was opened after the last test by somebody whose turn was over."""
        charges = self._judge_of(self._tracking.ledger.baseline).sit(self._settings.grace)
        self._tell_of(self._failing(charges))
        if session.testsfailed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _by_owner(charges: list[Charge]) -> dict[PytestOwner, list[Leftover]]:
    """Sorts charges by those whom a report can be made of."""
    by_owner: dict[PytestOwner, list[Leftover]] = {}
    for owner, leftover in charges:
        if isinstance(owner, PytestOwner) and not owner.is_excused:
            by_owner.setdefault(owner, []).append(leftover)
    return by_owner
