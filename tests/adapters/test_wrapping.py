"""What is wrapped is put back by identity, and the import system with it; wrapt comes without asyncio."""

import functools
import gc
import sys
import types
import weakref

import pytest
from wrapt import importer

from interpreters import run_program
from sockguard._engine.hooks import Hook, Replacement
from sockguard.adapters.wrapping import Wrappings


@pytest.fixture
def library():
    """A module with a class that has a method of its own, and inherits others of each kind."""

    class Base:
        def inherited(self):
            return ["inherited"]

        @classmethod
        def of_class(cls):
            return [cls.__name__]

        @staticmethod
        def of_none():
            return ["none"]

    class Thing(Base):
        def own(self):
            """Its docstring."""
            return ["own"]

    module = types.ModuleType("a_library")
    module.Thing = Thing
    sys.modules["a_library"] = module
    yield module
    sys.modules.pop("a_library", None)


def with_mark(wrapped, instance, args, kwargs):
    return ["wrapped", *wrapped(*args, **kwargs)]


def replacing(theirs):
    def replacement(*args):
        return ["replaced", *theirs(*args)]

    return replacement


WAYS = {"wrapped": with_mark, "replaced": Replacement(replacing)}


@pytest.mark.parametrize("name", ["own", "inherited"])
@pytest.mark.parametrize("way", WAYS)
def test_a_function_is_wrapped_and_put_back_by_identity(library, name, way):
    """A name of the class refers to the very same object again; one that it inherited is no name of it any more."""
    before = dict(vars(library.Thing))
    wrappings = Wrappings()
    wrappings.add(Hook("a_library", f"Thing.{name}", WAYS[way]))
    assert getattr(library.Thing(), name)() == [way, name]
    assert getattr(library.Thing, name).__name__ == name
    wrappings.undo()
    assert dict(vars(library.Thing)) == before
    assert all(vars(library.Thing)[key] is value for key, value in before.items())
    assert getattr(library.Thing(), name)() == [name]


@pytest.mark.parametrize("name", ["of_class", "of_none"])
def test_what_is_no_plain_method_is_put_back_too(library, name):
    """A classmethod stays one: it is the object in the class's dictionary that counts."""
    base = library.Thing.__mro__[1]
    before = vars(base)[name]
    wrappings = Wrappings()
    wrappings.wrap(base, name, with_mark)
    assert getattr(library.Thing, name)()[0] == "wrapped"
    wrappings.undo()
    assert vars(base)[name] is before


def test_the_last_is_undone_first(library):
    """Twice the same name: in the end it is the original, not the first wrapper."""
    before = vars(library.Thing)["own"]
    wrappings = Wrappings()
    for way in WAYS.values():
        wrappings.wrap(library.Thing, "own", way)
    assert library.Thing().own() == ["replaced", "wrapped", "own"]
    wrappings.undo()
    assert vars(library.Thing)["own"] is before
    wrappings.undo()  # nothing is left to undo
    assert vars(library.Thing)["own"] is before


def test_a_replacement_looks_like_what_it_replaces(library):
    """Name, docstring and the original itself: for help(), and for whoever unwraps."""
    before = library.Thing.own
    wrappings = Wrappings()
    wrappings.wrap(library.Thing, "own", WAYS["replaced"])
    assert (library.Thing.own.__doc__, library.Thing.own.__wrapped__) == ("Its docstring.", before)
    wrappings.undo()


@pytest.mark.parametrize("name", ["own", "inherited"])
def test_a_class_that_the_program_drops_is_not_kept(name):
    """Nor what it had under that name, nor a note of what was to be undone: a program may make one again and again."""
    wrappings = Wrappings()

    def wrapped():
        class Base:
            def inherited(self):
                return [__class__]

        class Thing(Base):
            def own(self):
                return [__class__]

        wrappings.wrap(Thing, name, WAYS["replaced"])
        assert getattr(Thing(), name)()[0] == "replaced"
        return weakref.ref(Thing)

    refs = [wrapped() for _ in range(3)]
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
    assert wrappings._undo == {}  # noqa: SLF001
    wrappings.undo()


def test_what_the_program_has_put_in_the_place_of_ours_is_left(library):
    """Nothing of ours is there to be undone."""
    wrappings = Wrappings()
    wrappings.wrap(library.Thing, "own", WAYS["replaced"])
    library.Thing.own = theirs = lambda _: ["theirs"]
    wrappings.undo()
    assert vars(library.Thing)["own"] is theirs


def test_another_version_of_a_library_is_passed_over(library):
    """Names that it does not have, of a class or altogether, are no error."""
    before = dict(vars(library.Thing))
    wrappings = Wrappings()
    for name in ("Thing.other", "Other.own", "Other.Inner.own"):
        wrappings.add(Hook("a_library", name, with_mark))
    assert dict(vars(library.Thing)) == before
    wrappings.undo()


# --- Modules that are imported later ---


@pytest.fixture
def later(tmp_path, monkeypatch):
    """The name of a module that nobody has imported yet."""
    (tmp_path / "a_later_library.py").write_text("class Thing:\n    def own(self):\n        return ['own']\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_later_library"
    sys.modules.pop("a_later_library", None)


def waited_for() -> dict[str, list[object]]:
    """Lists for what wrapt waits, and for whom."""
    return {name: list(hooks) for name, hooks in importer._post_import_hooks.items()}  # noqa: SLF001


def test_a_module_that_is_imported_later_is_wrapped_then(later):
    """And put back like any other."""
    wrappings = Wrappings()
    wrappings.add(Hook(later, "Thing.own", with_mark))
    module = __import__(later)
    assert module.Thing().own() == ["wrapped", "own"]
    wrappings.undo()
    assert module.Thing().own() == ["own"]


def test_the_import_system_is_as_before(later):
    """sys.meta_path has the very same finders, in their order, and nothing is waited for."""
    finders, before = list(sys.meta_path), waited_for()
    wrappings = Wrappings()
    wrappings.add(Hook(later, "Thing.own", with_mark))
    assert waited_for() != before
    wrappings.undo()
    assert list(map(id, sys.meta_path)) == list(map(id, finders))
    assert waited_for() == before
    assert __import__(later).Thing().own() == ["own"]


def test_hooks_of_the_program_stay(later):
    """Whoever uses wrapt himself keeps his hook, and the finder that calls it."""
    seen: list[object] = []
    wrappings = Wrappings()
    wrappings.add(Hook(later, "Thing.own", with_mark))
    importer.register_post_import_hook(seen.append, later)
    wrappings.undo()
    assert waited_for()[later] == [seen.append]
    assert [__import__(later)] == seen


CLEAN = """
import sys
finders = list(sys.meta_path)
from sockguard._engine.hooks import Hook
from sockguard.adapters.wrapping import Wrappings
for _ in range(3):
    wrappings = Wrappings()
    wrappings.add(Hook("colorsys", "rgb_to_yiq", lambda wrapped, *_: wrapped))
    wrappings.add(Hook("nowhere", "Thing.own", None))
    assert sys.meta_path != finders
    wrappings.undo()
    assert list(map(id, sys.meta_path)) == list(map(id, finders))
import wrapt
seen = []
wrapt.register_post_import_hook(seen.append, "colorsys")
import colorsys
print(seen == [colorsys])
"""


def test_wrapt_works_on_after_us():
    """Its finder was taken out, and is put in again when the program needs it."""
    assert run_program(sys.executable, CLEAN) == ["True"]


# --- wrapt without asyncio ---

ALONE = """
import sys
from sockguard.adapters.wrapping import Wrappings
Wrappings()
print([name for name in ("asyncio", "ssl") if name in sys.modules])
import asyncio
print(asyncio.run(asyncio.sleep(0, "works")), sys.modules["asyncio"] is asyncio)
import wrapt
print(wrapt.ObjectProxy([1]) == [1])
"""


def test_neither_asyncio_nor_ssl_is_imported():
    """A program that gevent is about to patch must not find them; later they are imported as ever."""
    assert run_program(sys.executable, ALONE) == ["[]", "works True", "True"]


STOOD_IN = """
import sys
from sockguard.adapters.wrapping import Wrappings
Wrappings()
from wrapt import decorators
module = vars(decorators).get("asyncio")
if module is not None:
    import asyncio
    assert module.iscoroutinefunction is asyncio.iscoroutinefunction
print("done")
"""


def test_what_wrapt_took_for_asyncio_works_when_it_is_used():
    """Its decorators for coroutines ask the stand-in, and that imports the real one."""
    assert run_program(sys.executable, STOOD_IN) == ["done"]


FAILS = """
import sys
sys.modules["wrapt"] = None
from sockguard.adapters.wrapping import Wrappings
try:
    Wrappings()
except ImportError:
    print("asyncio" in sys.modules)
"""


def test_the_stand_in_goes_also_when_wrapt_cannot_be_imported():
    """Nothing of ours is left under the name of asyncio."""
    assert run_program(sys.executable, FAILS) == ["False"]


def test_a_wrapt_that_is_there_is_taken():
    """It was imported by the program, with all that it wants."""
    assert Wrappings()._wrapt is sys.modules["wrapt"]  # noqa: SLF001


def test_what_is_called_through_a_wrapper_is_the_original(library):
    """Arguments, results and exceptions pass, and `self` is the program's."""

    def fail(self, *args, **kwargs):
        raise KeyError(self, args, kwargs)

    library.Thing.fails = fail
    thing = library.Thing()
    wrappings = Wrappings()
    wrappings.wrap(library.Thing, "fails", lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))
    with pytest.raises(KeyError) as raised:
        thing.fails(1, a=2)
    assert raised.value.args == (thing, (1,), {"a": 2})
    assert functools.partial(thing.fails).func.__self__ is thing
    wrappings.undo()
    assert vars(library.Thing)["fails"] is fail
