"""Who runs just now? Each phase of a test and each fixture is told to the books, so that sockets are stamped right.

Outside of phases, and of the innermost hooks in them, the test runner and its plugins run: what they open is theirs.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from sockguard._engine.blame.belonging import claim
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.tracking import Tracking
from sockguard.pytest_plugin.owners import FixtureOwner, TestOwner
from sockguard.pytest_plugin.settings import Settings, Terms, terms_of

__all__ = ["Phases"]

NO_DESCRIPTOR = contextlib.suppress(OSError)
"""Where the program has none left to look with, the next look sees what this one should have."""


class Phases:
    """Follows a test through its phases."""

    def __init__(self, tracking: Tracking, settings: Settings) -> None:
        self._ledger = tracking.ledger
        self._births = tracking.ledger.births
        self._settings = settings
        self._idle = Moment(self._ledger.baseline)
        self._owners: dict[int, FixtureOwner] = {}
        self._before: dict[int, Moment] = {}
        self.test: TestOwner | None = None
        """The test that runs, from its setup to its teardown."""

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """A test begins."""
        self.test = TestOwner(item, terms_of(item, self._settings))
        with NO_DESCRIPTOR:
            self._ledger.look_if_changed()
        self._births.background = Moment(self.test)
        return (yield from self._within(self.test))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """The test itself runs."""
        return (yield from self._within(self.test))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        """What it has used is torn down."""
        try:
            return (yield from self._within(self.test))
        finally:
            if self.test is not None:
                self._look(Moment(self.test))  # whatever was opened in C in any of its phases

    def _look(self, moment: Moment | None = None) -> None:
        with NO_DESCRIPTOR:
            self._ledger.look(moment)

    def _within(self, owner: TestOwner | None) -> Iterator[None]:
        if owner is None:
            return (yield)
        self._births.enter(Moment(owner))
        try:
            return (yield)
        finally:
            self._births.enter(self._idle)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: "pytest.FixtureDef[Any]", request: pytest.FixtureRequest
    ) -> Iterator[Any]:
        """A fixture is made: for the test that runs, or for several, and then it is charged itself."""
        if fixturedef.scope == "function":
            return (yield from self._in_fixture(Moment(self._births.moment.owner, fixturedef.argname)))
        self._look()
        terms = Terms(self._settings.action, self._settings.grace, None, None)
        owner = FixtureOwner(fixturedef, request, terms)
        try:
            return (yield from self._in_fixture(Moment(owner)))
        except BaseException:
            owner.is_excused = True
            raise
        finally:
            self._begin(owner)

    def _in_fixture(self, moment: Moment) -> Iterator[Any]:
        before = self._births.enter(moment)
        try:
            return (yield)
        finally:
            if moment.owner is not before.owner:
                self._look()
            self._births.enter(before)

    def _begin(self, owner: FixtureOwner) -> None:
        definition = owner.definition
        self._owners[id(definition)] = owner
        self._ledger.owners.append(owner)
        owner.has_begun()
        # Finalisers run last in, first out: this one comes before those of the fixture itself.
        definition.addfinalizer(lambda: self._ends(owner))

    def _ends(self, owner: FixtureOwner) -> None:
        """A fixture's teardown begins."""
        with NO_DESCRIPTOR:
            claim(owner, self._ledger)
        self._before[id(owner.definition)] = self._births.enter(Moment(owner))

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: "pytest.FixtureDef[Any]") -> None:
        """A fixture's teardown has ended."""
        owner = self._owners.pop(id(fixturedef), None)
        if owner is None:
            return
        self._look()
        self._births.enter(self._before.pop(id(fixturedef), self._idle))
        self._ledger.owners.remove(owner)
        owner.is_over = True
        owner.roots = []
