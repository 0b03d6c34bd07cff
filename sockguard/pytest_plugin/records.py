"""What was found in this run, and what became of it: failed, told of, known before, or wanted."""

import json
import os
from typing import Any

import pytest

from sockguard._core.leftovers import Leftover
from sockguard.pytest_plugin.owners import PytestOwner
from sockguard.pytest_plugin.settings import Settings

__all__ = ["Records", "baseline_key"]

Location = tuple[str, int | None, str]


class Records:
    """The findings of this process; of all its workers, where pytest-xdist has the tests run by others.

    Raises:
        pytest.UsageError: There is no such baseline.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._known = read_baseline(settings.baseline) if settings.action != "warn" else set()
        if settings.action == "error" and settings.baseline and not os.path.exists(settings.baseline):
            msg = f"{settings.baseline} is not there: write that baseline with --socket-leaks=warn, or correct its name"
            raise pytest.UsageError(msg)
        self.entries: list[dict[str, Any]] = []
        """One for each leftover: its fields, and `status`: error, warning, known or ignored."""
        self.used: set[str] = set()
        """Lines of the ignore list that matched."""
        self.mishaps: list[str] = []
        """What we could not do, in words."""
        self.late: list[tuple[str, Location, str]] = []
        """Reports that a worker cannot make by itself, as its tests are judged already: node id, place, text."""

    def judged(self, owner: PytestOwner, leftovers: list[Leftover]) -> list[Leftover]:
        """Takes down what an owner left open, and returns what it has to fail for."""
        unwanted = [leftover for leftover in leftovers if not self._is_ignored(leftover)]
        broken = owner.terms.broken_by(unwanted)
        failing = []
        for leftover in leftovers:
            status = self._status(owner, leftover, is_broken=any(leftover is one for one in broken))
            self.entries.append({"status": status, "test": owner.nodeid, **_plain(leftover)})
            if status == "error":
                failing.append(leftover)
        return failing

    def _status(self, owner: PytestOwner, leftover: Leftover, *, is_broken: bool) -> str:
        if not is_broken:
            return "ignored"
        if baseline_key(owner.nodeid, leftover.created_by) in self._known:
            return "known"
        return "error" if owner.terms.action == "error" else "warning"

    def _is_ignored(self, leftover: Leftover) -> bool:
        rules = [str(rule) for rule in self._settings.ignore if rule.matches(leftover)]
        self.used.update(rules)
        return bool(rules)

    def tell_of(self, nodeid: str, location: Location, text: str) -> None:
        """Has somebody fail who is judged already, or is no test: by a report of its own."""
        if hasattr(self._config, "workerinput"):
            self.late.append((nodeid, location, text))
            return
        report = pytest.TestReport(
            nodeid=nodeid, location=location, keywords={}, outcome="failed", longrepr=text, when="teardown"
        )
        self._config.hook.pytest_runtest_logreport(report=report)

    def to_send(self) -> dict[str, Any]:
        """Gives what a worker tells the main process, in plain types."""
        return {"entries": self.entries, "used": sorted(self.used), "late": self.late, "mishaps": self.mishaps}

    def receive(self, sent: dict[str, Any]) -> None:
        """Takes in what a worker tells."""
        self.entries += sent["entries"]
        self.used.update(sent["used"])
        self.mishaps += sent["mishaps"]
        for nodeid, (path, line, name), text in sent["late"]:
            self.tell_of(nodeid, (path, line, name), text)

    def unused(self) -> list[str]:
        """Lists the lines of the ignore list that matched nothing."""
        return [str(rule) for rule in self._settings.ignore if str(rule) not in self.used]


def _plain(leftover: Leftover) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in leftover._asdict().items()}


def baseline_key(nodeid: str, created_by: "tuple[str, ...] | list[str]") -> str:
    """Identifies a leak from run to run: by test and function, without a line number, a port or a time."""
    return f"{nodeid} {created_by[0] if created_by else '-'}"


def read_baseline(path: str) -> set[str]:
    """Reads the leaks that are known; none if the file is not there.

    Raises:
        pytest.UsageError: It is no such file.
    """
    if not path or not os.path.exists(path):
        return set()
    try:
        with open(path, encoding="utf-8") as file:
            return set(map(str, json.load(file)["leaks"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no baseline of socket leaks ({error}): write it anew with --socket-leaks=warn"
        raise pytest.UsageError(msg) from error
