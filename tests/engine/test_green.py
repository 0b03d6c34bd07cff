"""Finding the hub of a program made of greenlets, and asking it for one; with stand-ins, as neither library is needed.

`test_courier.py` does it with the libraries themselves, where they are installed.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest

import sockguard._engine.green as module
from sockguard._engine.green import LOOK_EVERY, Hub, green_library


class GeventHub:
    """What is used of gevent.hub.Hub."""

    def __init__(self, *, is_main: bool = True) -> None:
        self.main_hub = is_main
        self.asked: list[tuple[object, ...]] = []
        self.loop: object = SimpleNamespace(run_callback_threadsafe=lambda *call: self.asked.append(call))


class EventletHub:
    """What is used of eventlet.hubs.hub.BaseHub."""

    def __init__(self) -> None:
        self.stopping = False
        self.asked: list[tuple[object, ...]] = []

    def schedule_call_global(self, *call: object) -> None:
        self.asked.append(call)


def put_in_place(monkeypatch, **modules: object) -> None:
    """Puts stand-ins where the imported modules are; `__` stands for a dot."""
    for name, attributes in modules.items():
        stand_in = ModuleType(name.replace("__", "."))
        vars(stand_in).update(attributes)  # type: ignore[call-overload]
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)


@pytest.fixture
def gevent(monkeypatch) -> None:
    """A program that gevent has patched."""
    put_in_place(
        monkeypatch,
        gevent={"spawn_raw": "gevent.spawn_raw"},
        gevent__hub={"Hub": GeventHub},
        gevent__monkey={"is_module_patched": lambda name: name == "threading"},
    )


@pytest.fixture
def eventlet(monkeypatch) -> None:
    """A program that eventlet has patched."""
    put_in_place(
        monkeypatch,
        eventlet={"spawn_n": "eventlet.spawn_n"},
        eventlet__hubs__hub={"BaseHub": EventletHub},
        eventlet__patcher={"is_monkey_patched": lambda name: name == "thread"},
    )


@pytest.fixture(autouse=True)
def _without_either(monkeypatch):
    """Neither library is there, whatever the environment has imported."""
    for name in ("gevent.monkey", "eventlet.patcher"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_threads_are_threads_unless_a_library_has_patched_them(monkeypatch):
    """Without either library, or with one that was imported and has not patched threads, threads are used."""
    assert green_library() is None
    put_in_place(
        monkeypatch,
        gevent__monkey={"is_module_patched": lambda _: False},
        eventlet__patcher={"is_monkey_patched": lambda _: False},
    )
    assert green_library() is None


@pytest.mark.usefixtures("gevent")
def test_gevent_is_known_by_its_patches():
    """A program whose threads are gevent's is known."""
    assert green_library() == "gevent"


@pytest.mark.usefixtures("eventlet")
def test_eventlet_is_known_by_its_patches():
    """A program whose threads are eventlet's is known."""
    assert green_library() == "eventlet"


@pytest.mark.usefixtures("gevent")
def test_gevents_main_hub_is_asked():
    """The main thread's hub is asked to spawn, in the way that is safe from another thread; others are not."""

    class OfThisTest(GeventHub):
        """No hub of another test is found."""

    sys.modules["gevent.hub"].Hub = OfThisTest  # type: ignore[attr-defined]
    others = [OfThisTest(is_main=False)]
    main = OfThisTest()
    assert Hub().spawn("gevent", print, 1, 2)
    assert main.asked == [("gevent.spawn_raw", print, 1, 2)]
    assert others[0].asked == []


@pytest.mark.usefixtures("eventlet")
def test_eventlets_hub_is_asked():
    """The hub of eventlet is told to spawn when it wakes up."""

    class OfThisTest(EventletHub):
        """No hub of another test is found."""

    sys.modules["eventlet.hubs.hub"].BaseHub = OfThisTest  # type: ignore[attr-defined]
    hub = OfThisTest()
    assert Hub().spawn("eventlet", print, 1)
    assert hub.asked == [(0, "eventlet.spawn_n", print, 1)]


@pytest.mark.usefixtures("gevent")
def test_no_hub_is_no_error_and_is_looked_for_now_and_then(monkeypatch):
    """A program that has not begun to use greenlets has no hub; the search for it is dear, so it is repeated rarely."""
    now = [100.0]
    searches: list[float] = []
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    objects: list[object] = []
    monkeypatch.setattr(module, "instances_of", lambda _: searches.append(now[0]) or objects)
    hub = Hub()
    assert not hub.spawn("gevent", print)
    main = GeventHub()
    objects += [GeventHub(is_main=False), main]
    now[0] += LOOK_EVERY - 0.1
    assert not hub.spawn("gevent", print)
    now[0] += 0.1
    assert hub.spawn("gevent", print)
    assert hub.spawn("gevent", print)
    assert (searches, len(main.asked)) == ([100.0, 105.0], 2)


@pytest.mark.usefixtures("gevent")
def test_destroyed_hub_is_not_asked_again(monkeypatch):
    """A hub that was destroyed, as before a fork, is replaced by the next one."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    objects: list[object] = [first := GeventHub()]
    monkeypatch.setattr(module, "instances_of", lambda _: objects)
    hub = Hub()
    assert hub.spawn("gevent", print)
    first.loop = None
    now[0] += LOOK_EVERY
    assert not hub.spawn("gevent", print)
    objects.append(second := GeventHub())
    now[0] += LOOK_EVERY
    assert hub.spawn("gevent", print)
    assert (len(first.asked), len(second.asked)) == (1, 1)
