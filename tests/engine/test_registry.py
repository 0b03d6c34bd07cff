"""Which connections are watched: by descriptor, each from its first tick on, and of each number only the last."""

import asyncio
import gc
import os
import socket
import threading
import weakref

import pytest

from guarded import driven
from loopback import connect
from sockguard._engine import registry as module
from sockguard._engine.record import stranger
from sockguard._engine.registry import Registry
from sockguard._engine.sites import capture
from sockguard._engine.terms import Terms


class Thing:
    """An owner of a descriptor."""

    def __init__(self, fd):
        self.fd = fd

    def fileno(self):
        return self.fd


class Transport:
    """An owner that has to be asked for its socket."""

    def __init__(self, sock, *, closing=False):
        self.sock, self.closing = sock, closing

    def is_closing(self):
        return self.closing

    def get_extra_info(self, _):
        return self.sock


def announce(registry: Registry, owner, fd: int, *, is_server=True) -> None:
    registry.opened.append((weakref.ref(owner), fd, is_server, None, capture(), None, None))


def test_what_is_opened_is_enlisted_at_the_tick():
    """With its instant, side and owner; until then it is a tuple in a queue."""
    registry, thing = Registry(), Thing(5)
    announce(registry, thing, 5, is_server=False)
    assert registry.records() == []
    [record] = registry.take_new(7.0)
    assert (record.fd, record.opened_at, record.is_server, record(), record.cookie) == (5, 7.0, False, thing, None)
    assert (registry.by_fd, list(registry.opened)) == ({5: record}, [])
    assert list(registry.take_new(8.0)) == []


def test_of_one_number_only_the_last_is_asked_for():
    """A thousand that came and went between two ticks cost one look."""
    registry, things = Registry(), [Thing(5) for _ in range(1000)]
    for thing in things:
        announce(registry, thing, 5)
    [record] = registry.take_new(0)
    assert record() is things[-1]
    assert registry.take_displaced() == []


def test_another_connection_displaces_the_one_before():
    """Who is displaced is told once, so that what was said of it can be taken back."""
    registry, first, second = Registry(), Thing(5), Thing(5)
    announce(registry, first, 5)
    [old] = registry.take_new(0)
    announce(registry, second, 5)
    [new] = registry.take_new(1)
    assert (registry.by_fd[5], registry.take_displaced(), registry.take_displaced()) == (new, [old], [])


def test_the_same_object_announced_again_stays_as_it_is():
    """connect_ex() that asks how far it is; its history is not begun anew."""
    registry, thing = Registry(), Thing(5)
    announce(registry, thing, 5)
    [record] = registry.take_new(0)
    announce(registry, thing, 5)
    assert list(registry.take_new(1)) == []
    assert (registry.by_fd[5], registry.take_displaced()) == (record, [])


@pytest.mark.parametrize("fate", ["died", "let go"])
def test_an_object_that_has_let_go_leaves_its_number(fate):
    """Whatever connection has it now is taken in, without an owner, but with the line that opened it."""
    registry, thing = Registry(), Thing(5)
    announce(registry, thing, 5)
    if fate == "died":
        del thing
        gc.collect()
    else:
        thing.fd = -1
    [record] = registry.take_new(0)
    assert (record.fd, record.has_object) == (5, False)
    assert record.site is not None


def test_the_death_of_an_object_is_told_once_as_long_as_it_matters():
    """Not if its number is another's by then, or it was forgotten."""
    registry, things = Registry(), [Thing(fd) for fd in (5, 6, 7)]
    for thing in things:
        announce(registry, thing, thing.fd)
    records = list(registry.take_new(0))
    heir = Thing(6)
    announce(registry, heir, 6)
    registry.enlist(1)
    registry.forget(records[2])
    del things, thing
    gc.collect()
    assert list(registry.take_died()) == [records[0]]
    assert list(registry.take_died()) == []


def test_who_is_put_back_comes_again_and_who_is_forgotten_does_not():
    """A connection that is still being made is looked at at the next tick."""
    registry, thing = Registry(), Thing(5)
    announce(registry, thing, 5)
    [record] = registry.take_new(0)
    registry.postpone(record)
    assert list(registry.take_new(1)) == [record]
    registry.postpone(record)
    registry.forget(record)
    assert list(registry.take_new(2)) == []
    registry.forget(record)  # once more does no harm


def test_a_transport_is_asked_for_its_descriptor():
    """At the tick: by then it may be closing, or have none."""
    with connect() as c:
        registry = Registry()
        transports = [Transport(c.server), Transport(c.client, closing=True), Transport(None)]
        for transport in transports:
            announce(registry, transport, -1)
        [record] = registry.take_new(0)
        assert (record.fd, record()) == (c.server.fileno(), transports[0])
        announce(registry, Transport(c.client), -1)  # collected at once
        gc.collect()
        assert list(registry.take_new(1)) == []


class Broken:
    """An owner whose every method raises."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)

    def is_closing(self):
        raise ZeroDivisionError

    def fileno(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("fd", [-1, 9])
def test_an_owner_that_fails_does_not_keep_the_others(fd):
    """Socket classes and transports of whatever library: one that cannot be asked is left to the kernel's list."""
    registry, broken, things = Registry(), Broken(), [Thing(5), Thing(6)]
    announce(registry, things[0], 5)
    announce(registry, broken, fd)
    announce(registry, things[1], 6)
    registry.enlist(0)
    assert {5, 6} <= registry.by_fd.keys()


def test_a_socket_that_was_closed_while_it_was_announced_is_passed_over():
    """Its number is -1, as a transport's is, and it is none."""
    with connect() as c, driven() as d:
        c.client.close()
        d.guard.adopt(c.client, c.client, False)
        d.guard.adopt(c.server, c.server, True)
        d.tick()
        assert d.guard.registry.by_fd.keys() == {c.server.fileno()}


def test_threads_may_announce_while_the_guard_enlists():
    """A deque is all that is between them, and none is lost."""
    registry, things = Registry(), [Thing(fd) for fd in range(4000)]
    parts = [things[n::4] for n in range(4)]

    def work(part):
        for thing in part:
            announce(registry, thing, thing.fd)

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        registry.enlist(0)
    registry.enlist(0)
    assert len(registry.by_fd) == len(things)


# --- Forks ---


def forgotten(registry: Registry, cookie: int, opened_at: float):
    """A connection that was opened, and then closed by this process."""
    thing = Thing(5)
    announce(registry, thing, 5)
    [record] = registry.take_new(opened_at)
    record.cookie = cookie
    registry.forget(record)
    return record


def test_without_a_fork_nothing_is_remembered():
    """What is closed is closed."""
    registry = Registry()
    forgotten(registry, 1, 0.0)
    assert registry.ghost(1) is None


def test_what_was_open_at_a_fork_is_remembered_until_it_is_laid():
    """A child may hold it; later ones it cannot."""
    registry = Registry()
    registry.after_fork(10.0)
    old, _ = forgotten(registry, 1, 9.0), forgotten(registry, 2, 11.0)
    assert (registry.ghost(1), registry.ghost(2)) == (old, None)
    registry.lay(1)
    registry.lay(1)
    assert registry.ghost(1) is None


def test_what_was_announced_before_the_fork_was_open_then():
    """Also if the guard has not had a tick in between."""
    registry, thing = Registry(), Thing(5)
    announce(registry, thing, 5)
    registry.after_fork(10.0)
    [record] = registry.take_new(10.25)
    record.cookie = 1
    registry.forget(record)
    assert registry.ghost(1) is record


def test_memory_for_ghosts_is_bounded(monkeypatch):
    """The oldest go first."""
    monkeypatch.setattr(module, "MAX_GHOSTS", 3)
    registry = Registry()
    registry.after_fork(10.0)
    for cookie in range(5):
        forgotten(registry, cookie, 0.0)
    assert [cookie for cookie in range(5) if registry.ghost(cookie)] == [2, 3, 4]


def test_a_child_keeps_the_records_and_no_ghosts():
    """What it has inherited is watched there; what the parent had closed, it may not even hold."""
    registry, thing = Registry(), Thing(6)
    registry.after_fork(10.0)
    forgotten(registry, 1, 0.0)
    announce(registry, thing, 6)
    registry.enlist(0)
    registry.after_fork_in_child()
    assert (registry.ghost(1), registry.by_fd.keys(), list(registry.take_new(1))) == (None, {6}, [])


def test_the_objects_of_asyncio_are_followed():
    """A real transport: its descriptor while it is open, none when it is closing."""

    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        registry = Registry()
        announce(registry, writer.transport, -1)
        [record] = registry.take_new(0)
        assert record.fd == writer.get_extra_info("socket").fileno()
        writer.close()
        announce(registry, writer.transport, -1)
        assert list(registry.take_new(1)) == []
        server.close()
        await writer.wait_closed()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_a_record_is_itself_and_nothing_else():
    """It is a weak reference, and yet neither its hash nor its equality asks the application's object."""

    class Odd(Thing):
        __hash__ = None

        def __eq__(self, other):
            raise ZeroDivisionError

    registry, odd = Registry(), Odd(os.dup(0))
    try:
        announce(registry, odd, odd.fd)
        [record] = registry.take_new(0)
        assert {record: 1}[record] == 1
        assert record != socket
    finally:
        os.close(odd.fd)


def test_the_terms_of_what_was_closed_are_remembered_for_a_duplicate_of_it():
    """By the cookie, and for so many; whoever takes them over is found by a deadline that was set before."""
    made = Registry()
    terms = [Terms(None) for _ in range(module.MAX_HANDED_ON + 1)]
    for cookie, its in enumerate(terms, 1):
        gone = stranger(5, cookie, 0.0, is_server=True)
        gone.terms = its
        made.forget(gone)
    oldest, newest, unknown = (stranger(fd, cookie, 0.0, is_server=True) for fd, cookie in ((7, 1), (8, 2), (9, None)))
    for record in (oldest, newest, unknown):
        module.welcome(made, record)
    assert (oldest.terms, newest.terms, unknown.terms) == (None, terms[1], None)
    assert terms[1].fd == 8 and made.by_fd == {7: oldest, 8: newest, 9: unknown}
