"""What is wanted: of the whole run, and of one test by its markers."""

import inspect
import os
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, TypeVar

import pytest

from sockguard._core.facts import TcpState
from sockguard._core.ignoring import IgnoreRule, parse_rule
from sockguard._core.leftovers import Leftover
from sockguard.errors import UsageError
from sockguard.testing import GRACE

__all__ = ["SETTINGS", "Allowed", "Settings", "Terms", "known_states", "read_settings", "terms_of"]


class Settings(NamedTuple):
    """What is wanted of the whole run."""

    action: str
    """off, warn or error; off where only some tests ask by a marker or fixture."""
    grace: float
    """Seconds."""
    ignore: tuple[IgnoreRule, ...]
    checks_failed: bool
    report: str
    """A path, or ""."""
    baseline: str
    """A path, or ""."""


T = TypeVar("T")
_NAMES = (*(state.name for state in TcpState), "UNCONNECTED")
STATES = {name.replace("_", ""): name for name in _NAMES} | {
    "CLOSED": "CLOSE",
    "ESTAB": "ESTABLISHED",
    "LISTENING": "LISTEN",
    "UNCONN": "UNCONNECTED",
}
"""The states that a message can name, by what they and others call them, without `-` and `_`."""
SETTINGS = pytest.StashKey[Settings]()


class Allowed(NamedTuple):
    """What the marker `allow_socket_leaks` allows."""

    at_most: int | None
    rule: IgnoreRule | None


class Terms(NamedTuple):
    """What is wanted of one test."""

    action: str
    grace: float
    states: frozenset[str] | None
    """Only these count; None for all."""
    allowed: Allowed | None

    def broken_by(self, leftovers: Collection[Leftover]) -> list[Leftover]:
        """Lists those that are not allowed."""
        found = [leftover for leftover in leftovers if self.states is None or leftover.state in self.states]
        if self.allowed is None:
            return found
        count, rule = self.allowed
        fitting = [leftover for leftover in found if rule is None or rule.matches(leftover)]
        excused = {id(leftover) for leftover in (fitting if count is None or len(fitting) <= count else ())}
        return [leftover for leftover in found if id(leftover) not in excused]


def read_settings(config: pytest.Config) -> Settings:
    """Reads options and ini file.

    Raises:
        pytest.UsageError: A value makes no sense.
    """
    action = config.getoption("socket_leaks") or str(config.getini("socket_leaks")) or "off"
    if action not in ("off", "warn", "error"):
        msg = f"socket_leaks = {action!r} makes no sense: write off, warn or error"
        raise pytest.UsageError(msg)
    try:
        rules = tuple(parse_rule(line) for line in config.getini("socket_leaks_ignore"))
    except UsageError as error:
        msg = f"socket_leaks_ignore: {error}"
        raise pytest.UsageError(msg) from error
    baseline = config.getoption("socket_leaks_baseline") or str(config.getini("socket_leaks_baseline"))
    report = config.getoption("socket_leaks_report")
    return Settings(
        action=action,
        grace=_seconds(config.getini("socket_leaks_grace") or GRACE, "socket_leaks_grace"),
        ignore=rules,
        checks_failed=bool(config.getini("socket_leaks_check_failed")),
        report=os.path.abspath(report) if report else "",  # now, as tests may change the folder
        baseline=str(config.rootpath / baseline) if baseline else "",
    )


def _seconds(value: object, name: str) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        msg = f"{name} = {value!r} makes no sense: give seconds, 0 or more"
        raise pytest.UsageError(msg)
    return seconds


def terms_of(item: pytest.Item, settings: Settings) -> Terms:
    """Works out what is wanted of a test.

    Raises:
        pytest.UsageError: Its markers make no sense.
    """
    is_demanded = "no_socket_leaks" in getattr(item, "fixturenames", ())
    terms = Terms("error" if is_demanded else settings.action, settings.grace, None, _allowed(item))
    marker = item.get_closest_marker("socket_leaks")
    return terms if marker is None else _with_marker(terms, marker)


def _with_marker(terms: Terms, marker: pytest.Mark) -> Terms:
    def read(action: str | None = None, *, grace: float | None = None, states: object = None) -> Terms:
        if action not in (None, "off", "warn", "error"):
            msg = f"socket_leaks(action={action!r}) makes no sense: give off, warn or error"
            raise pytest.UsageError(msg)
        return Terms(
            action or (terms.action if terms.action != "off" else "error"),
            terms.grace if grace is None else _seconds(grace, "socket_leaks(grace=...)"),
            None if states is None else known_states(states),
            terms.allowed,
        )

    return _called(read, marker)


def _allowed(item: pytest.Item) -> Allowed | None:
    marker = item.get_closest_marker("allow_socket_leaks")

    def read(reason: object, *, count: object = None, match: str | None = None) -> Allowed:
        if not isinstance(reason, str) or not reason.strip():
            msg = f"the reason {reason!r} makes no sense: say why, as in allow_socket_leaks('the pool is shared')"
            raise UsageError(msg)
        if not (count is None or (isinstance(count, int) and count >= 0)):
            msg = f"count={count!r} makes no sense: give the number of sockets, 0 or more"
            raise UsageError(msg)
        return Allowed(count, parse_rule(match) if match is not None else None)

    return None if marker is None else _called(read, marker)


def known_states(given: object) -> frozenset[str]:
    """Reads names of states, as we, `ss` or the kernel write them, as our messages have them.

    Raises:
        UsageError: There is no such state, so that nothing would ever be found.
    """
    names = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    found = {name: STATES.get(str(name).upper().replace("-", "").replace("_", "")) for name in names}
    unknown = [name for name, state in found.items() if state is None]
    if unknown or not names:
        value = unknown[0] if unknown else given
        msg = f"states={value!r} makes no sense: give some of {', '.join(sorted(set(STATES.values())))}"
        raise UsageError(msg)
    return frozenset(state for state in found.values() if state)


def _called(read: Callable[..., T], marker: pytest.Mark) -> T:
    """Reads the arguments of a marker as those of a function."""
    empty = inspect.Signature.empty
    parameters = [one.replace(annotation=empty) for one in inspect.signature(read).parameters.values()]
    signature = inspect.Signature(parameters)
    try:
        given = signature.bind(*marker.args, **marker.kwargs)
    except TypeError as error:
        msg = f"@pytest.mark.{marker.name}: {error}: write {marker.name}{signature}"
        raise pytest.UsageError(msg) from error
    try:
        return read(*given.args, **given.kwargs)
    except UsageError as error:
        msg = f"@pytest.mark.{marker.name}: {error}"
        raise pytest.UsageError(msg) from error
