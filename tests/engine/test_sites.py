"""Creation sites: which frames are named, that stacks are kept once, and that they keep nothing else alive."""

import asyncio
import functools
import gc
import inspect
import os
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType

import pytest

from sockguard._engine import sites
from sockguard._engine.sites import MAX_FRAMES, MAX_SITES, Site, capture, is_own, main_line, place, table_size

HERE = os.path.basename(__file__)


@pytest.fixture(autouse=True)
def _empty_table(monkeypatch):
    """Gives each test a table of its own."""
    monkeypatch.setattr(sites, "_table", {})


def names(site: Site) -> list[str]:
    """Lists the functions that a site shows."""
    return [line.rpartition(" in ")[2] for line in site.frames()]


def modules(site: Site) -> list[str]:
    """Lists the modules that a site of `below` shows."""
    return [line.rpartition("/")[2].partition(".py:")[0] for line in site.frames()]


def relay(chain, function):
    """Calls a function below the rest of a chain."""
    return chain[0](chain[1:], function) if chain else function()


def relay_of(module: str) -> FunctionType:
    """Makes a copy of `relay` that belongs to another module and file."""
    folder = "/x/site-packages" if module.startswith("lib") else "/opt"
    path = "<frozen x>" if module == "frozen" else f"{folder}/{module}.py"
    return FunctionType(relay.__code__.replace(co_filename=path), {"__name__": module})


def below(stack, function=capture, relays=relay_of):
    """Calls a function below frames of these modules, innermost first, on a thread, so without pytest's frames."""
    outermost, *chain = [relays(module) for module in reversed(stack)]
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(outermost, chain, function).result()


def same(one, other) -> bool:
    """Tells whether two stacks are one site; each module has but one function."""
    relays = functools.cache(relay_of)
    return below(one, relays=relays) is below(other, relays=relays)


def test_frame_is_named_by_file_line_and_function():
    """The innermost frame is the one that called, with the line of the call."""
    site, line = capture(), inspect.currentframe().f_lineno
    assert site.frames()[0].endswith(f"{HERE}:{line} in test_frame_is_named_by_file_line_and_function")


def test_depth_counts_callers():
    """2 is the caller of the caller: a hook that calls `capture` leaves itself out."""

    def hook():
        return capture(2)

    assert names(hook())[0] == "test_depth_counts_callers"


def test_stack_is_kept_once():
    """Ten thousand connections of one line share one object; another line is another site."""
    found = {id(capture()) for _ in range(100)}
    assert len(found) == 1
    assert capture() is not capture()


@pytest.mark.parametrize("depth", [1, 2, 7, 8, 9, 16, 17, 25])
def test_stacks_are_told_apart_by_every_frame_that_is_read(depth):
    """The same library called from another place is another site, at every depth; from the same one it is the same."""
    libraries = ["lib"] * depth
    assert same([*libraries, "app"], [*libraries, "app"])
    assert not same([*libraries, "app"], [*libraries, "main"])
    assert not same([*libraries, "lib2", "app"], [*libraries, "app"])


@pytest.mark.parametrize("depth", [1, 6, 7, 8, 15, 25])
def test_caller_of_a_library_is_found_however_deep(depth):
    """The frames of a library do not hide who called it: reading goes on until there are frames of the application."""
    assert modules(below([*["socket"] * depth, "app", "app.main"])) == ["app", "app.main"]


def test_reading_ends():
    """A stack without any application is read to a limit, and what is beyond makes no difference."""
    assert same(["lib"] * MAX_FRAMES + ["app"], ["lib"] * MAX_FRAMES + ["main"])
    assert not same(["lib"] * (MAX_FRAMES - 1) + ["app"], ["lib"] * (MAX_FRAMES - 1) + ["main"])


def test_enough_is_read_and_no_more():
    """Two frames of the application end the reading, so a recursion costs no more than the first step."""
    assert same(["app"] * 8 + ["app"], ["app"] * 8 + ["main"])
    assert not same(["app"] + ["lib"] * 7 + ["app"], ["app"] + ["lib"] * 7 + ["main"])


def test_event_loop_ends_the_reading_once_somebody_is_named():
    """Below a callback of a loop nobody says who opened the connection; above it somebody does."""
    loop = ["asyncio.events"] * 8
    assert same(["app", *loop, "lib"], ["app", *loop, "lib2"])
    assert not same([*loop, "app"], [*loop, "main"])


def test_machinery_is_not_shown():
    """Networking, event loops, imports and we ourselves are left out; libraries and applications are shown."""
    stack = ["sockguard._engine.guard", "socket", "lib", "asyncio.streams", "frozen", "app", "app.db"]
    assert modules(below(stack)) == ["lib", "app", "app.db"]
    assert below(stack).module_qualname == "lib.relay"


def test_who_started_the_program_is_not_shown():
    """What lies below an event loop, a thread or `sockguard run` is left out."""
    for bottom in ("asyncio.events", "threading", "sockguard.cli.run", "runpy", "_pytest.python"):
        assert modules(below(["app", bottom, "main"])) == ["app"]


def test_something_is_shown_at_any_rate():
    """Where all is machinery, the innermost frame that is not ours is shown; else our own."""
    assert modules(below(["sockguard.x", "asyncio.events"])) == ["asyncio.events"]
    assert modules(below(["sockguard.x"] * 40)) == ["sockguard.x"]
    assert Site(()).frames() == ()
    assert Site(()).module_qualname == ""


def test_not_more_is_shown_than_helps():
    """A long chain of libraries is cut."""
    assert modules(below(["lib"] * 30)) == ["lib"] * 8


def test_module_without_a_proper_name_is_borne():
    """A program may put anything in `__name__`."""
    space = {"__name__": 5, "capture": capture}
    exec(compile("def f(): return capture()", "/opt/app.py", "exec"), space)
    assert space["f"]().module_qualname == ".f"


def test_qualname_is_that_of_the_function():
    """`created-by:module.Class.method` is what an ignore list names."""

    class Server:
        def serve(self):
            return capture()

    assert Server().serve().module_qualname.endswith(".test_qualname_is_that_of_the_function.<locals>.Server.serve")


def test_asyncio_handler_is_named():
    """A connect() of a coroutine names the coroutines that led there, and not the loop."""

    async def fetch():
        return capture()

    async def handle():
        return await fetch()

    assert names(asyncio.run(handle()))[:2] == ["fetch", "handle"]


def test_table_is_bounded(monkeypatch):
    """Code that is compiled anew for each connection does not fill the memory: the rest shares a site that says so."""
    monkeypatch.setattr(sites, "MAX_SITES", 3)
    space = {"__name__": "app", "capture": capture}
    found = []
    for number in range(6):
        exec(compile(f"def f{number}(): return capture()", "app.py", "exec"), space)
        found.append(space[f"f{number}"]())
    assert found[-1] is found[-2]
    assert found[-1].frames() == (f"(not recorded: connections are opened in more than {MAX_SITES} places)",)
    assert table_size() == 3


def test_site_keeps_code_alive_and_nothing_else():
    """Its key has the addresses of code objects, so these must stay; locals must not."""

    class Thing:
        pass

    def open_one():
        thing = Thing()
        gone.append(weakref.ref(thing))
        return capture()

    gone: list[weakref.ref] = []
    codes: list[weakref.ref] = []
    site = open_one()
    codes.append(weakref.ref(open_one.__code__))
    del open_one
    gc.collect()
    assert gone[0]() is None
    assert codes.pop()() is not None
    assert "open_one" in site.frames()[0]


def test_repr_tells_the_stack():
    """A site in a debugger says where it is."""
    assert f"{HERE}:" in repr(capture())


# Places


def test_path_is_relative_to_what_the_reader_knows(monkeypatch, tmp_path):
    """To the nearest of working directory and import path; else it stays as it is."""
    code = capture.__code__
    inside, package = tmp_path / "app", tmp_path / "site-packages"
    monkeypatch.setattr(sys, "path", [str(package), "", "relative"])
    inside.mkdir()
    monkeypatch.chdir(inside)
    shown = {
        inside / "main.py": "main.py:7",
        inside / "sub" / "x.py": "sub/x.py:7",
        package / "lib" / "x.py": "lib/x.py:7",
        "/opt/other.py": "/opt/other.py:7",
        "<string>": "<string>:7",
    }
    assert {path: place(code.replace(co_filename=str(path)), 7) for path in shown} == {
        path: f"{text} in capture" for path, text in shown.items()
    }


def test_working_directory_may_be_gone_or_the_root(monkeypatch, tmp_path):
    """A daemon works in /; a directory may have been removed. Then paths stay whole."""
    code = capture.__code__.replace(co_filename="/opt/app.py")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.chdir("/")
    assert place(code, 7) == "/opt/app.py:7 in capture"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert place(code, 7) == "/opt/app.py:7 in capture"


def test_unknown_line_is_that_of_the_function():
    """An instruction that belongs to no line is told by where the function begins."""
    assert f":{capture.__code__.co_firstlineno} in capture" in place(capture.__code__, None)


def test_main_line_is_the_innermost_of_the_application():
    """A thread that waits in a library is told by the line that called it; without such a line, by the library's."""
    frames = below(["threading", "lib", "app"], lambda: _stack(inspect.currentframe().f_back))
    assert main_line(frames).startswith("/opt/app.py:")
    assert main_line(frames[:2]).startswith("/opt/threading.py:")
    assert main_line(frames[1:2]).startswith("/x/site-packages/lib.py:")
    own = below(["sockguard.x"], lambda: _stack(inspect.currentframe().f_back))[:1]
    assert [is_own(frame) for frame in (*own, *frames[:1])] == [True, False]
    assert main_line(own) is None


def _stack(frame) -> list:
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found
