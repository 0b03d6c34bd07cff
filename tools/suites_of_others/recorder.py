"""A pytest plugin that writes down what became of each test, and, if asked, how many sockets it left open.

There is no sockguard in it.

`SUITE_RECORD` names the file. With `SUITE_WAIT`, a count of seconds, the descriptors of the process are
looked at before and after each test, by `/proc/self/fd`: how many sockets it left, how many of them garbage
collection closes, and whether the rest ends by itself in that time. ResourceWarnings are counted, too.
"""

import gc
import json
import logging
import os
import time
import warnings
from collections.abc import Generator
from typing import Any

import pytest

outcomes: list[tuple[str, str, str, bool]] = []
"""Test, phase, outcome, whether it is a SocketLeakError."""
evidence: dict[str, dict[str, Any]] = {}
"""By test: `open`, `after_gc`, `ended_after` (seconds, or null), `warnings`."""

# tornado.test.runtests does so: its tests want no access log.
logging.getLogger("tornado.access").setLevel(logging.CRITICAL)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Takes down an outcome; that of setup and teardown only where something went wrong."""
    outcome = ("x" if hasattr(report, "wasxfail") else "") + report.outcome
    if report.when == "call" or outcome != "passed":
        is_leak = str(report.longrepr).startswith("SocketLeakError")
        outcomes.append((report.nodeid, str(report.when), outcome, is_leak))


def pytest_warning_recorded(warning_message: warnings.WarningMessage, nodeid: str) -> None:
    """Counts the warnings of sockets that were thrown away."""
    text = str(warning_message.message)
    if issubclass(warning_message.category, ResourceWarning) and nodeid in evidence:
        evidence[nodeid]["warnings"] += "unclosed <socket" in text or "unclosed transport" in text or "<ssl." in text


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Looks which sockets a test has left, when all of its teardown is over."""
    wait = float(os.environ.get("SUITE_WAIT", "0"))
    if not wait:
        return (yield)
    before = sockets()
    found = evidence[item.nodeid] = {"open": 0, "after_gc": 0, "ended_after": None, "warnings": 0}
    result = yield
    over_at = time.monotonic()
    left = sockets() - before
    found["open"] = len(left)
    while left & sockets() and time.monotonic() - over_at < wait:
        time.sleep(0.05)
    if left and not left & sockets():
        found["ended_after"] = round(time.monotonic() - over_at, 1)
    gc.collect()
    found["after_gc"] = len(left & sockets())
    return result


def sockets() -> set[str]:
    """Lists the inodes of the open sockets."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the one of the list itself
    return {name for name in names if name.startswith("socket:")}


def pytest_sessionfinish() -> None:
    """Writes the file."""
    with open(os.environ["SUITE_RECORD"], "w", encoding="utf-8") as file:
        json.dump({"outcomes": outcomes, "evidence": evidence}, file)
