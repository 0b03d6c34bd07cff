"""Who holds an object: each kind of holder is named, nothing is kept alive, and no code of the application runs."""

import _thread
import asyncio
import contextlib
import functools
import gc
import inspect
import queue
import sys
import threading
import types
import weakref
from collections import deque

import pytest

from sockguard._engine import referrers
from sockguard._engine.referrers import held_by, stacks, thread_with_local
from waiting import eventually

LIVE = sys.version_info >= (3, 13)


class Thing:
    """What is held: something like a socket, which knows nothing of its holders."""


class Session:
    """A class of an application."""

    def __init__(self, conn):
        self._conn = conn


class Slotted:
    """The same with slots."""

    __slots__ = ("conn",)


class Registry:
    """A class that keeps connections itself."""

    connections: list = []  # noqa: RUF012 - what is tested


class Hostile(Thing):
    """Fails the test if it is compared, hashed, printed or asked for anything."""

    def refuse(self, *_):
        raise AssertionError

    __eq__ = __hash__ = __repr__ = __getattribute__ = __bool__ = __len__ = refuse  # type: ignore[assignment]


@pytest.fixture
def app(monkeypatch):
    """A module of an application, with a name to put things under."""
    module = types.ModuleType("app")
    exec("kept = None", module.__dict__)
    monkeypatch.setitem(sys.modules, "app", module)
    yield module
    module.kept = None


def tell(app, keep, thing=None) -> tuple[str, ...]:
    """Has something keep a thing, and asks; that this function has it as well is left out."""
    thing = Thing() if thing is None else thing
    app.kept = keep(thing)
    del keep
    return tuple(text for text in held_by(thing) if " of tell (" not in text)


def inside(container):
    return lambda thing: container([thing])


def slotted(thing):
    made = Slotted()
    made.conn = thing
    return made


@pytest.mark.parametrize(
    ("keep", "told"),
    [
        (lambda thing: thing, "global 'kept' of module app"),
        (lambda thing: [thing], "list 'kept' of module app"),
        (lambda thing: (thing,), "tuple 'kept' of module app"),
        (lambda thing: {thing}, "set 'kept' of module app"),
        (lambda thing: deque([thing]), "deque 'kept' of module app"),
        (lambda thing: {"a": thing}, "dict 'kept' of module app"),
        (lambda thing: {1: [thing]}, "dict 'kept' of module app"),
        (Session, "attribute '_conn' of Session, in global 'kept' of module app"),
        (slotted, "attribute 'conn' of Slotted, in global 'kept' of module app"),
        (lambda thing: [Session(thing)], "attribute '_conn' of Session, in list 'kept' of module app"),
        (lambda thing: Session([thing]), "list '_conn' of Session, in global 'kept' of module app"),
        (lambda thing: functools.partial(print, thing), "global 'kept' of module app"),
    ],
)
def test_holder_is_named(app, keep, told):
    """By the name that leads there, containers by their kind; what only passes a reference on is left out."""
    assert tell(app, keep) == (told,)


def test_attribute_is_named_in_a_dictionary_that_was_asked_for(app):
    """Once somebody has asked for `__dict__`, an object has a dictionary of its own between itself and its values."""

    def keep(thing):
        session = Session(thing)
        session.__dict__  # noqa: B018 - makes it
        return session

    assert tell(app, keep) == ("attribute '_conn' of Session, in global 'kept' of module app",)


def test_queue_is_named(app):
    """A connection that waits in a queue for a worker that is gone."""

    def keep(thing):
        jobs = queue.Queue()
        jobs.put(thing)
        return jobs

    assert tell(app, keep) == ("deque 'queue' of Queue, in global 'kept' of module app",)


def test_object_that_holds_in_a_way_of_its_own_is_named_by_its_type(app):
    """An extension type has no names inside."""
    assert tell(app, lambda thing: iter([thing])) == ("object list_iterator, in global 'kept' of module app",)


def test_class_is_named():
    """A list that was meant for each object and belongs to the class."""
    thing = Thing()
    Registry.connections.append(thing)
    assert "list 'connections' of Registry" in held_by(thing)
    Registry.connections.clear()
    Registry.last = thing
    assert "class attribute 'last' of Registry" in held_by(thing)
    del Registry.last


def test_closure_is_named():
    """A callback that somebody has registered."""

    def register(thing):
        return lambda: thing

    thing = Thing()
    callback = register(thing)
    assert any(text.startswith("closure of ") and text.endswith(" in <lambda>") for text in held_by(thing))
    del callback


def names(found) -> list[str]:
    """Takes the lines away: "local 'conn' of handle (app.py:12)"."""
    return [text.partition(" (")[0] for text in found]


def test_running_function_is_named():
    """A thread whose handler waits for something else; its frame is invisible to the garbage collector."""
    started, end = threading.Event(), threading.Event()

    def handle(conn):
        started.set()
        end.wait()

    thing = Thing()
    thread = threading.Thread(target=handle, args=(thing,))
    thread.start()
    started.wait()
    try:
        found = held_by(thing)
        assert "local 'conn' of handle" in names(found)
        assert all("test_referrers.py:" in text for text in found)
        assert thread_with_local(thing) in (thread.ident, threading.get_ident())
    finally:
        end.set()
        thread.join()
    del thing
    assert thread_with_local(Thing()) is None


@pytest.mark.parametrize("kind", ["generator", "coroutine", "async generator"])
def test_waiting_function_is_named(kind):
    """What is suspended holds its locals, whoever holds it."""

    def generate(conn):
        yield

    async def wait(conn):
        await asyncio.sleep(0)

    async def agenerate(conn):
        yield

    thing = Thing()
    waiting = {"generator": generate, "coroutine": wait, "async generator": agenerate}[kind](thing)
    step = waiting.__anext__() if kind == "async generator" else waiting
    with_suppressed(lambda: step.send(None))
    assert any(text.startswith("local 'conn' of ") for text in names(held_by(thing)))
    if kind == "async generator":
        with_suppressed(lambda: waiting.aclose().send(None))
    else:
        waiting.close()


def with_suppressed(call) -> None:
    """Takes a step of something that may end by it."""
    with contextlib.suppress(StopIteration, StopAsyncIteration):
        call()


def test_function_that_has_not_begun_is_named():
    """A coroutine that nobody awaits has its arguments already."""

    def generate(conn):
        yield

    thing = Thing()
    waiting = generate(thing)
    assert "local 'conn' of generate" in names(held_by(thing))
    waiting.close()


def test_what_a_function_is_about_to_use_has_no_name():
    """It is in no variable, but on the stack of what waits."""

    def generate(things):
        yield 0
        yield from things

    thing, other = Thing(), Thing()
    waiting = generate(iter([other, thing]))
    next(waiting)
    assert next(waiting) is other
    del other
    told = names(held_by(thing))
    assert told[-1] == "object list_iterator, in local 'things' of generate"
    waiting.close()


def test_traceback_is_named():
    """An exception that is kept keeps the locals of the functions that it came through."""

    def fail(conn):
        raise ValueError

    def keep(conn):
        try:
            fail(conn)
        except ValueError as error:
            return error

    thing = Thing()
    error = keep(thing)
    assert "local 'conn' of fail" in names(held_by(thing))
    error.__traceback__ = None


def test_plumbing_is_seen_through(app):
    """Who holds the writer holds the connection; the stream itself, the loop and its handles need not be told."""

    async def main():
        begun, done = asyncio.Event(), asyncio.Event()

        async def handle(reader, writer):
            app.kept = {writer}
            begun.set()
            await done.wait()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await begun.wait()
        found = held_by(next(iter(app.kept)).transport)
        writer.close()
        done.set()
        server.close()
        return found

    found = asyncio.run(main())
    assert "set 'kept' of module app" in found
    assert [text for text in found if "asyncio/" in text or "Handle" in text or "SelectorKey" in text] == []


def in_module(function, name: str):
    """Makes a copy of a function that belongs to another module."""
    return types.FunctionType(function.__code__, {**function.__globals__, "__name__": name})


def test_coroutine_of_plumbing_is_seen_through(app):
    """`reader.read()` that waits is not who holds a connection, but who awaits it."""

    def generate(conn):
        yield

    assert tell(app, in_module(generate, "asyncio.streams")) == ("global 'kept' of module app",)
    app.kept.close()


def test_connection_that_nobody_of_the_application_holds():
    """Then nothing is said: only the event loop has it."""
    assert held_by(Thing()) == ()


def test_globals_of_machinery_are_no_holders(monkeypatch):
    """What the standard library keeps of every connection says nothing of this one."""
    thing = Thing()
    monkeypatch.setattr(asyncio.events, "_kept", [thing], raising=False)
    assert [text for text in held_by(thing) if "asyncio" in text] == []


def test_our_own_objects_are_no_holders(app):
    """The guard's registry holds records of all connections."""
    record = type("Record", (Session,), {"__module__": "sockguard._engine.record"})
    assert tell(app, record) == ()


def test_not_more_is_told_than_helps():
    """A connection that is everywhere is told of three times."""
    thing = Thing()
    keepers = []
    for number in range(5):
        space = {"thing": thing, "__builtins__": {}, "__name__": f"app{number}"}
        keepers.append(space)
    assert len(held_by(thing)) == 3
    del keepers


def test_search_ends_when_it_takes_too_long(app, monkeypatch):
    """A process with millions of objects is not kept waiting for one connection."""
    monkeypatch.setattr(referrers, "MAX_SECONDS", -1)
    thing = Thing()
    assert [text for text in tell(app, Session, thing) if " of module app" in text] == []
    assert "attribute '_conn' of Session, in global 'kept' of module app" in held_by(thing, 60.0)


def test_search_goes_only_so_far(app):
    """A long chain has no name in the end."""
    thing = Thing()
    app.kept = thing
    for _ in range(12):
        app.kept = [app.kept]
    assert [text for text in held_by(thing) if "app" in text.split()] == []


def test_width_is_limited(app, monkeypatch):
    """Of a thousand that refer to it, only some are followed."""
    monkeypatch.setattr(referrers, "MAX_TARGETS", 0)
    assert tell(app, Session) == ()


def test_large_dictionary_is_not_searched(app, monkeypatch):
    """The name under which a thing lies in a dictionary of millions is not looked for."""
    monkeypatch.setattr(referrers, "MAX_ITEMS", 0)
    assert tell(app, lambda thing: thing) == ()


# What must not happen


def test_nothing_is_kept_alive():
    """Right after the question, without the garbage collector's help, a thing dies with its last holder."""
    started, let_go, gone, end = (threading.Event() for _ in range(4))
    seen: list[weakref.ref] = []

    def handle():
        conn = Thing()
        seen.append(weakref.ref(conn))
        started.set()
        let_go.wait()
        del conn
        gone.set()
        end.wait()

    def ask():
        held_by(seen[0]())
        thread_with_local(seen[0]())

    thread = threading.Thread(target=handle)
    gc.disable()
    try:
        thread.start()
        started.wait()
        ask()
        let_go.set()
        gone.wait()
        assert seen[0]() is None
    finally:
        gc.enable()
        end.set()
        thread.join()


def test_own_frames_are_no_cycle():
    """The stack of whoever asks is not kept by the asking."""

    def ask():
        thing = Thing()
        held_by(thing)
        stacks()
        return weakref.ref(thing)

    gc.disable()
    try:
        assert ask()() is None
    finally:
        gc.enable()


def test_no_code_of_the_application_runs(app):
    """No comparison, no hash, no text, no attribute of what is looked at or of its neighbours."""
    thing, holder = Hostile(), Hostile()
    object.__setattr__(holder, "conn", thing)
    told = tell(app, lambda _: {"x": holder}, thing)
    assert "attribute 'conn' of Hostile, in dict 'kept' of module app" in told


def test_locals_that_somebody_else_may_use_are_left_alone():
    """Up to Python 3.12, a function that calls locals(), or is traced by a debugger, is passed over."""
    results = []

    def careful(conn):
        mine = locals()
        results.append(held_by(conn))
        return mine

    def traced(conn):
        inspect.currentframe().f_trace = lambda *_: None
        results.append(held_by(conn))

    thing = Thing()
    assert careful(thing)["conn"] is thing
    traced(thing)
    told = [name for found in results for name in names(found) if name.endswith((" careful", " traced"))]
    assert told == (["local 'conn' of careful", "local 'conn' of traced"] if LIVE else [])


def test_copy_of_locals_that_somebody_has_is_not_emptied():
    """A tool that shows locals reads from the same dictionary."""
    copies = []

    def handle(conn):
        copies.append(inspect.currentframe().f_locals)
        held_by(conn)
        return copies[0]["conn"]

    thing = Thing()
    assert handle(thing) is thing


def test_thread_of_our_own_is_left_out():
    """The guard's thread holds whatever it looks at just now."""
    end = threading.Lock()
    end.acquire()
    begun = []

    def run(begun, end):
        begun.append(1)
        end.acquire()

    thread = _thread.start_new_thread(in_module(run, "sockguard._engine.driver"), (begun, end))
    eventually(lambda: begun)
    is_listed = thread in stacks()
    end.release()
    assert not is_listed


def test_stacks_begin_where_our_own_code_ends():
    """Asked from within, each thread is where the application called us."""
    frame = stacks()[threading.get_ident()]
    assert frame.f_code.co_name == "test_stacks_begin_where_our_own_code_ends"
