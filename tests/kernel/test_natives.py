"""The system's own functions, behind whatever a green library has put in their place."""

import builtins
import os
import select
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from sockguard._kernel.natives import monotonic, native, new_poll, open_file, sleep, system, wall_clock


def blocks(*_: object) -> None:
    """Stands for what the green library has put in the place of the original."""


def test_without_a_green_library_it_is_what_the_module_has() -> None:
    """Nothing is in between."""
    assert native("time", "sleep") is time.sleep


def test_name_that_never_was_is_an_attribute_error() -> None:
    """As on a system whose select module has no epoll."""
    with pytest.raises(AttributeError):
        native("time", "never_was")


@pytest.mark.parametrize("is_patched", [True, False])
def test_gevent_gives_the_original_back(monkeypatch: pytest.MonkeyPatch, is_patched: bool) -> None:
    """It keeps what it replaces; asked for a module that it has not patched, it would have nothing to give."""
    original = time.sleep
    monkey = ModuleType("gevent.monkey")
    monkey.is_module_patched = lambda name: is_patched and name == "time"  # type: ignore[attr-defined]
    monkey.get_original = lambda module, name: {("time", "sleep"): original}[module, name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    if is_patched:
        monkeypatch.setattr(time, "sleep", blocks)
    assert native("time", "sleep") is original
    assert native("select", "poll") is select.poll


@pytest.mark.parametrize(
    ("module", "known_as"),
    [("time", "time"), ("_thread", "thread"), ("threading", "thread"), ("select", "select")],
)
def test_eventlet_gives_the_original_back(monkeypatch: pytest.MonkeyPatch, module: str, known_as: str) -> None:
    """Asked by its own name for the module, which for threads is another."""
    patcher = ModuleType("eventlet.patcher")
    patcher.is_monkey_patched = lambda name: name == known_as  # type: ignore[attr-defined]
    patcher.original = lambda name: SimpleNamespace(function=f"original of {name}")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)
    assert native(module, "function") == f"original of {module}"
    assert native("os", "getpid") is __import__("os").getpid


ASK = """
import {library}
{patch}
from sockguard._kernel.natives import monotonic, native
names = [("_thread", "RLock"), ("_thread", "allocate_lock"), ("_thread", "start_new_thread"), ("time", "sleep")]
names += [("_thread", "get_ident"), ("select", "epoll")]
for module, name in names:
    print(native(module, name).__module__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "patch"),
    [("gevent.monkey", "gevent.monkey.patch_all()"), ("eventlet", "eventlet.monkey_patch()")],
)
def test_real_library_hides_nothing(library: str, patch: str) -> None:
    """Where it is installed: all that the guard's thread uses is of the system, written in C."""
    pytest.importorskip(library.partition(".")[0])
    command = [sys.executable, "-W", "ignore", "-c", ASK.format(library=library, patch=patch)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert said == ["_thread", "_thread", "_thread", "time", "_thread", "select"]


def test_the_clock_is_the_monotonic_one_under_another_name() -> None:
    """Libraries that freeze the time replace what is called time.monotonic, wherever it was imported to."""
    assert abs(monotonic() - time.monotonic()) < 1
    assert monotonic is not time.monotonic


def refuse(*_: object, **__: object) -> None:
    """Stands for what a test has put in the place of a function."""
    raise AssertionError


def test_what_is_kept_is_not_replaced_with_its_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in its module nor in the globals of ours, where pyfakefs and freezegun look for functions."""
    kept = [os.stat, os.listdir, open, time.time, time.monotonic, time.sleep, select.poll]
    for module, names in ((os, ["stat", "listdir"]), (time, ["time", "monotonic", "sleep"]), (select, ["poll"])):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    globals_ = vars(sys.modules[native.__module__])
    assert not [name for name, thing in globals_.items() if any(thing is one for one in kept)]
    assert system.stat("/").st_ino and system.listdir("/")
    assert wall_clock() > monotonic() > 0
    with open_file("/proc/self/stat", encoding="ascii") as file:
        assert file.read()
    assert new_poll().poll(0) == []
    sleep(0)


@pytest.mark.parametrize("module", ["gevent.hub", "eventlet.greenthread"])
def test_greenlets_go_on_while_we_sleep(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """They may be about to close what we wait for."""
    slept = []

    def green(seconds: float) -> None:
        slept.append(seconds)

    green.__module__ = module
    monkeypatch.setattr(time, "sleep", green)
    sleep(7)
    assert slept == [7]


def test_system_has_no_more_than_os() -> None:
    """What is not there for programs is not there for us: neither `path`, nor what a sandbox has taken out."""
    assert {name for name in vars(system) if not name.startswith("__")} <= set(dir(os))
    assert not hasattr(system, "path")
