"""Blocks in one another, one after the other, and side by side: each is charged with its own."""

import contextvars
import socket
import threading

import pytest

from forks import succeeds_in_child
from loopback import inode_of
from sockguard._engine.blame.births import WITHIN, Moment
from sockguard._engine.blame.blocks import Block, turn
from sockguard._engine.blame.ledger import Owner
from sockguard._engine.blame.tracking import Tracking


@pytest.fixture
def tracking():
    """Books that have seen what was open before, and see what they are told of."""
    made = Tracking()
    made.ledger.look()
    yield made
    made.ledger.shut()


@pytest.fixture
def begin(tracking):
    """Begins blocks, and ends those that the test leaves running."""
    made = []

    def do(name="block"):
        made.append(Block(name, tracking, has_loop=False))
        return made[-1]

    yield do
    for block in reversed(made):
        if block.owner not in ended:
            end(block)


ended = []


def end(block):
    """Ends a block; what it is charged with, by inode."""
    assert list(block.waits(0, is_judged=True)) == []
    leaks = [leak.inode for leak in block.leaks()]
    block.end()
    ended.append(block.owner)
    return leaks


def make(tracking):
    """Opens a socket, as the wrapper of `socket.socket.__init__` tells of it."""
    sock = socket.socket()
    tracking.ledger.births.born(sock, 1)
    return sock


def now(tracking):
    """Who is charged with what no context tells of."""
    return tracking.ledger.births.moment.owner


def aside(function, *arguments):
    """Runs a function in a context of its own, as another task would."""
    return contextvars.Context().run(function, *arguments)


def test_a_block_alone_has_everything(tracking, begin):
    """What C opens, and what other tasks open meanwhile; afterwards who ran before runs again."""
    before = now(tracking)
    block = begin()
    assert now(tracking) is block.owner
    with socket.socket() as of_c, aside(make, tracking) as of_other:
        assert sorted(end(block)) == sorted(map(inode_of, (of_c, of_other)))
    assert now(tracking) is before


def test_in_one_another(tracking, begin):
    """The inner one has what is opened in it; then the outer one goes on."""
    outer = begin("outer")
    inner = begin("inner")
    assert (now(tracking), inner.is_rival(outer), outer.is_rival(inner)) == (inner.owner, False, False)
    with make(tracking) as first:
        assert end(inner) == [inode_of(first)]
        assert now(tracking) is outer.owner
        with make(tracking) as second:
            assert end(outer) == [inode_of(second)]


@pytest.mark.parametrize("is_first", [True, False])
def test_side_by_side(tracking, begin, is_first):
    """Each has its own, whichever ends first; what no context tells of is nobody's while both run."""
    before = now(tracking)
    contexts = [contextvars.Context(), contextvars.Context()]
    blocks = [context.run(begin) for context in contexts]
    assert blocks[0].is_rival(blocks[1])
    assert now(tracking) is before
    socks = [context.run(make, tracking) for context in contexts]
    with socks[0], socks[1], socket.socket():
        order = (0, 1) if is_first else (1, 0)
        assert [contexts[n].run(end, blocks[n]) for n in order] == [[inode_of(socks[n])] for n in order]
    assert now(tracking) is before


def test_the_one_that_goes_on_has_everything_again(tracking, begin):
    """When its rival has ended."""
    blocks = [aside(begin), aside(begin)]
    aside(end, blocks[1])
    assert now(tracking) is blocks[0].owner


def test_side_by_side_in_another(tracking, begin):
    """Two tasks in a block: what neither has opened is the outer block's."""
    outer = begin("outer")
    inner = [contextvars.copy_context().run(begin) for _ in range(2)]
    assert now(tracking) is outer.owner
    with socket.socket() as of_c:
        assert [end(block) for block in inner] == [[], []]
        assert end(outer) == [inode_of(of_c)]


def test_not_due_while_another_is_judged(tracking, begin, somebody):
    """A block that waits for its own sockets is not charged, nor relieved, by the end of another."""
    contexts = [contextvars.Context(), contextvars.Context()]
    blocks = [context.run(begin) for context in contexts]
    with contexts[0].run(make, tracking) as mine, contexts[1].run(make, tracking) as other:
        assert next(blocks[0].waits(30, is_judged=True)) > 0
        assert contexts[1].run(end, blocks[1]) == [inode_of(other)]
        assert [leak.inode for leak in blocks[0].leaks()] == [inode_of(mine)]
        contexts[0].run(blocks[0].end)
        ended.append(blocks[0].owner)


@pytest.fixture
def somebody():
    """A thread that could close something, so that it is waited for."""
    may_go = threading.Event()
    thread = threading.Thread(target=may_go.wait)
    thread.start()
    yield
    may_go.set()
    thread.join()


def test_tasks_that_outlive_a_block_are_not_its_own(tracking, begin):
    """What they open after its end is of who runs then."""
    block = begin()
    of_task = contextvars.copy_context()
    end(block)
    test = Owner("test")
    tracking.ledger.births.enter(Moment(test))
    with of_task.run(make, tracking) as sock:
        assert tracking.ledger.births.by_inode[inode_of(sock)].moment.owner is test
    assert WITHIN.get() == ()


def test_what_is_not_told_goes_to_the_block_around_it(tracking, begin):
    """If the inner one was not judged, as it raised."""
    outer, inner = begin("outer"), begin("inner")
    with make(tracking) as sock:
        assert list(inner.waits(0, is_judged=False)) == []
        assert inner.leaks() == []
        inner.end()
        ended.append(inner.owner)
        assert end(outer) == [inode_of(sock)]


def test_a_test_that_began_meanwhile_goes_on(tracking, begin):
    """A block that spans the phases of a test does not undo what they said."""
    block = begin()
    test = Owner("test")
    tracking.ledger.births.enter(Moment(test))
    end(block)
    assert now(tracking) is test


def test_innermost_of_this_context(begin):
    """Each thread and task knows its own."""
    block = begin()
    assert block.is_of_this_context()
    assert not aside(block.is_of_this_context)


def test_a_forked_child_does_not_wait_for_a_thread_it_has_not_got():
    """The lock that another thread had at the fork is not the child's."""
    has_it, may_go = threading.Event(), threading.Event()

    def hold():
        with turn():
            has_it.set()
            may_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    has_it.wait(60)
    try:
        assert succeeds_in_child(lambda: turn().acquire(timeout=3))
    finally:
        may_go.set()
        thread.join()
