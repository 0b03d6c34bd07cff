"""Who can be charged: a test, and a fixture of a wider scope than one test."""

import os
from types import CodeType, ModuleType
from typing import Any

import pytest

from sockguard._engine.blame.ledger import Owner
from sockguard.pytest_plugin.settings import Terms

__all__ = ["FixtureOwner", "PytestOwner", "TestOwner"]


class PytestOwner(Owner):
    """Somebody whom a report can be made of."""

    def __init__(self, name: str, nodeid: str, location: tuple[str, int | None, str], terms: Terms) -> None:
        super().__init__(name, is_excused=terms.action == "off")
        self.nodeid = nodeid
        self.location = location
        self.terms = terms


class TestOwner(PytestOwner):
    """A test, with its fixtures of function scope."""

    __test__ = False

    def __init__(self, item: pytest.Item, terms: Terms) -> None:
        super().__init__(item.nodeid, item.nodeid, item.location, terms)


class FixtureOwner(PytestOwner):
    """A fixture of a wider scope; it lives until its finaliser has run."""

    def __init__(self, definition: "pytest.FixtureDef[Any]", request: pytest.FixtureRequest, terms: Terms) -> None:
        name, scope = _shown_name(definition.argname), definition.scope
        path, line = _place_of(definition, request.config)
        super().__init__(f"{scope} fixture '{name}' of {path}", f"{path}::{name}", (path, line, name), terms)
        self.definition = definition
        self._holder = _holder(request)
        self._before = dict(vars(self._holder)) if self._holder is not None else {}

    def has_begun(self) -> None:
        """Takes down what it has made: its value, what its finalisers know, what it has put into a class or module."""
        definition = self.definition
        value = definition.cached_result[0] if definition.cached_result else None
        changed = (
            [thing for key, thing in list(vars(self._holder).items()) if self._is_new(key, thing)]
            if self._holder is not None
            else []
        )
        self._before = {}
        self.roots = [value, *changed, *definition._finalizers]  # noqa: SLF001 - a generator's locals are there

    def _is_new(self, name: str, thing: object) -> bool:
        """Tells whether it was put there by the fixture, and is its own: a module that it imported is not."""
        return self._before.get(name) is not thing and not issubclass(type(thing), type | ModuleType)


XUNIT = {"_xunit_setup_": "setup_", "_unittest_setUp": "setUp"}


def _shown_name(name: str) -> str:
    """Names a fixture; what pytest makes of `setup_module` and its like is called by its own name again."""
    for prefix, shown in XUNIT.items():
        if name.startswith(prefix):
            return shown + name.removeprefix(prefix).partition("_fixture_")[0]
    return name


def _place_of(definition: "pytest.FixtureDef[Any]", config: pytest.Config) -> tuple[str, int | None]:
    code = getattr(getattr(definition.func, "__wrapped__", definition.func), "__code__", None)
    if not isinstance(code, CodeType):
        return definition.baseid or "conftest.py", None
    if _shown_name(definition.argname) != definition.argname and definition.baseid:
        return definition.baseid, None
    path = os.path.relpath(code.co_filename, config.rootpath)
    return (code.co_filename if path.startswith("..") else path), code.co_firstlineno - 1


def _holder(request: pytest.FixtureRequest) -> type | ModuleType | None:
    """Finds the class or module into which a fixture of that scope may put what it makes."""
    holder = {"class": "cls", "module": "module"}.get(request.scope)
    found: type | ModuleType | None = getattr(request, holder) if holder else None
    return found
