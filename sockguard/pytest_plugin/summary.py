"""Tells of the whole run: a section in the terminal, a file for machines, a baseline for the next run."""

from collections.abc import Iterator
from typing import Any

import pytest

from sockguard.pytest_plugin.extent import Extent
from sockguard.pytest_plugin.files import write
from sockguard.pytest_plugin.records import Records, baseline_key, read_baseline
from sockguard.pytest_plugin.settings import Settings

__all__ = ["Summary"]

SCHEMA = 1
MAX_TESTS = 5
"""Tests that are named for one place."""


class Summary:
    """What is told at the end, by the one process that talks to people."""

    def __init__(self, config: pytest.Config, settings: Settings, records: Records, extent: Extent) -> None:
        self._config = config
        self._settings = settings
        self._records = records
        self._extent = extent
        self._told: list[str] = []
        """What is to be said of the files."""

    def header(self) -> str:
        """Says in a line what is done."""
        settings = self._settings
        action = "off but for tests that ask for it" if settings.action == "off" else settings.action
        ignored = f", {len(settings.ignore)} ignore lines" if settings.ignore else ""
        return f"socket leaks: {action} (grace {settings.grace:g} s{ignored})"

    def receive(self, sent: dict[str, Any]) -> None:
        """Takes in what a worker of pytest-xdist has found."""
        self._records.receive(sent)
        self._extent.is_part = self._extent.is_part or sent["is_part"]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Writes the files; or, in a worker, sends everything home."""
        if hasattr(self._config, "workerinput"):
            sent = {**self._records.to_send(), "is_part": self._extent.is_part}
            self._config.workeroutput["sockguard"] = sent  # type: ignore[attr-defined] # xdist's
            return
        failures = [*self._write_report(), *self._write_baseline()]
        self._told += [f"error: {failure}" for failure in failures]
        if failures and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _write_report(self) -> Iterator[str]:
        content = {"schema": SCHEMA, "leaks": self._records.entries, **self._unused()}
        if self._settings.report and (failure := write(self._settings.report, content)):
            yield failure

    def _write_baseline(self) -> Iterator[str]:
        path = self._settings.baseline
        if not path or self._settings.action != "warn":
            return
        if not self._extent.judged:
            self._told.append(f"baseline {path} is left as it is: no test was judged")
            return
        try:
            known = self._found() | self._still_known(path)
        except pytest.UsageError as error:
            yield str(error)
            return
        if failure := write(path, {"schema": SCHEMA, "leaks": sorted(known)}):
            yield failure
        else:
            kept = "" if self._extent.is_whole else "; of tests that were not judged it says what it said before"
            self._told.append(f"baseline written to {path}{kept}")

    def _found(self) -> set[str]:
        return {baseline_key(entry["test"], entry["created_by"]) for entry in self._with("warning")}

    def _still_known(self, path: str) -> set[str]:
        """Lists what an older baseline has of others than the tests that were judged now."""
        if self._extent.is_whole:
            return set()
        return {key for key in read_baseline(path) if key.rpartition(" ")[0] not in self._extent.judged}

    def _with(self, *statuses: str) -> list[dict[str, Any]]:
        return [entry for entry in self._records.entries if entry["status"] in statuses]

    def _unused(self) -> dict[str, list[str]]:
        return {"unused_ignore_lines": self._records.unused() if self._extent.is_whole else []}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints what was found, by the place that opened it."""
        lines = [*self._places(), *self._remarks()]
        if lines:
            terminalreporter.section("socket leaks", sep="=", yellow=True)
            for line in lines:
                terminalreporter.line(line)

    def _places(self) -> Iterator[str]:
        by_site: dict[str, list[dict[str, Any]]] = {}
        for entry in self._with("error", "warning"):
            site = entry["source_at"] or (entry["created_at"] or ["(not seen where)"])[0]
            by_site.setdefault(site, []).append(entry)
        for site, entries in sorted(by_site.items(), key=lambda item: -len(item[1])):
            yield f"{len(entries)} opened at {site}"
            if entries[0]["source"]:
                yield f"      {entries[0]['source']}"
            tests = sorted({entry["test"] for entry in entries})
            yield from (f"    in {test}" for test in tests[:MAX_TESTS])
            if len(tests) > MAX_TESTS:
                yield f"    and {len(tests) - MAX_TESTS} more"

    def _remarks(self) -> Iterator[str]:
        if known := self._with("known"):
            yield f"{len(known)} known leaks, listed in {self._settings.baseline}"
        yield from (f"warning: {mishap}" for mishap in self._records.mishaps)
        for line in self._unused()["unused_ignore_lines"]:
            yield f"warning: socket_leaks_ignore = {line} matches nothing any more: take it out"
        yield from self._told
