"""How a function of somebody else's is wrapped, and how that is undone: wrapt, with the inverses that it lacks."""

import functools
import importlib
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from sockguard._engine.hooks import Hook, Replacement, Wrapper

__all__ = ["Wrappings"]

_BEFORE = "__sockguard_before__"
"""Of a function that we have put into a class: what the class had there of its own, if anything."""


def _import_wrapt() -> Any:
    """Imports wrapt without asyncio.

    wrapt 2 imports asyncio, and so ssl, for decorators that are not used here. A program
    that is about to be monkey-patched by gevent must not find them imported. So wrapt is
    given a stand-in, which imports asyncio if those decorators are ever called.
    """
    if "wrapt" in sys.modules or "asyncio" in sys.modules:
        return importlib.import_module("wrapt")
    stand_in = types.ModuleType("asyncio")
    stand_in.__getattr__ = lambda name: getattr(importlib.import_module("asyncio"), name)  # type: ignore[method-assign]
    sys.modules["asyncio"] = stand_in
    try:
        return importlib.import_module("wrapt")
    finally:
        del sys.modules["asyncio"]


class Wrappings:
    """What was wrapped, in order; `undo` restores every name to the very object that it referred to.

    A name that refers to somebody else's by then is left alone: a mock that a test has put on top of ours, or a wrapper
    of another library. It may call ours still, or put it back. Then that calls the original, and a stopped guard
    drops what it announces.
    """

    def __init__(self) -> None:
        self._wrapt = _import_wrapt()
        self._had_finder = any(type(finder).__module__ == "wrapt.importer" for finder in sys.meta_path)
        self._undo: dict[object, Callable[[], object]] = {}

    def add(self, hook: Hook) -> None:
        """Wraps a function now, or when its module is imported."""

        def on_import(module: Any) -> None:
            path, _, name = hook.name.rpartition(".")
            owner = getattr(module, path, None)
            if hasattr(owner, name):  # or else another version of that library, which is not adopted by this door
                self.wrap(owner, name, hook.wrapper)

        self._wrapt.register_post_import_hook(on_import, hook.module)
        self._undo[on_import] = lambda: self._forget(hook.module, on_import)

    def _forget(self, module: str, on_import: Callable[[Any], None]) -> None:
        waiting: dict[str, list[object]] = self._wrapt.importer._post_import_hooks  # noqa: SLF001 - it has no inverse
        if on_import in waiting.get(module, ()):
            waiting[module].remove(on_import)
        if not waiting.get(module):
            waiting.pop(module, None)

    def wrap(self, owner: Any, name: str, wrapper: Wrapper | Replacement) -> None:
        """Wraps an attribute of a class, and remembers how it was."""
        if isinstance(wrapper, Replacement):
            self._replace(owner, name, wrapper)
            return
        before = {name: vars(owner)[name]} if name in vars(owner) else {}
        self._wrapt.wrap_function_wrapper(owner, name, wrapper)
        ours = vars(owner).get(name)
        self._undo[object()] = lambda: _put_back(owner, name, ours, before)

    def _replace(self, owner: Any, name: str, replacement: Replacement) -> None:
        """Puts a function into a class; neither the class, which may be the program's, nor what it had is kept alive.

        What it had may refer to the class. So it is our function that keeps it, and the class keeps that.
        """
        theirs: Any = getattr(owner, name)
        ours: Any = functools.wraps(theirs)(replacement.make(theirs))
        setattr(ours, _BEFORE, {name: vars(owner)[name]} if name in vars(owner) else {})
        setattr(owner, name, ours)
        key = object()
        owner_ref, ours_ref = weakref.ref(owner, lambda _: self._undo.pop(key, None)), weakref.ref(ours)

        def undo() -> None:
            if (owner := owner_ref()) is not None and (ours := ours_ref()) is not None:
                _put_back(owner, name, ours, getattr(ours, _BEFORE))

        self._undo[key] = undo

    def undo(self) -> None:
        """Undoes it all, the last first."""
        for key in reversed(tuple(self._undo)):
            self._undo.pop(key, lambda: None)()  # that class may have died by now
        importer = self._wrapt.importer
        if not self._had_finder and not importer._post_import_hooks:  # noqa: SLF001
            sys.meta_path[:] = [f for f in sys.meta_path if type(f) is not importer.ImportHookFinder]
            importer._post_import_hooks_init = False  # noqa: SLF001


def _put_back(owner: Any, name: str, ours: Any, before: dict[str, Any]) -> None:
    """Undoes a wrapping, unless somebody has put a mock or a wrapper on top of ours, and will put ours back."""
    if vars(owner).get(name) is not ours:
        return
    if name in before:
        setattr(owner, name, before[name])  # at once: another thread may be about to call it
    else:
        delattr(owner, name)
