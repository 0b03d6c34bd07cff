"""Who opened which socket: by phase, by thread, and from which line."""

import contextvars
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from loopback import inode_of
from sockguard._engine.blame.births import WITHIN, Births, Call, Moment, is_internal


def opened(births):
    """Opens a socket as the wrapper of `socket.socket.__init__` reports it, and gives socket and stamp."""
    sock = socket.socket()
    births.born(sock, 1)
    return sock, births.by_inode[inode_of(sock)]


def test_stamp_has_owner_fixture_and_place():
    """Who runs is charged; the innermost call is first."""
    births = Births("nobody")
    births.enter(Moment("test", "fixture"))
    sock, birth = opened(births)
    with sock:
        assert (birth.moment.owner, birth.moment.fixture, birth.opened_in) == ("test", "fixture", "test")
        assert [call.code.co_name for call in birth.calls[:2]] == ["opened", "test_stamp_has_owner_fixture_and_place"]
        assert birth.calls[-1].module.startswith("_pytest.")
        assert birth.objects() == [sock]
    assert birth.objects() == []


def test_same_stack_is_kept_once():
    """A thousand sockets of one loop share their stack."""
    births = Births("nobody")
    made = [opened(births) for _ in range(3)]
    for sock, _ in made:
        sock.close()
    assert len({id(birth.calls) for _, birth in made}) == 1


def test_enter_gives_back_what_ran_before():
    """So that phases can be nested."""
    births = Births("nobody")
    before = births.enter(Moment("test"))
    assert births.enter(before) == Moment("test")
    assert births.moment.owner == "nobody"


def in_thread(function, *arguments):
    """Runs a function in a thread of its own, and gives its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    thread.join()
    return results[0]


def test_thread_started_in_this_phase_works_for_it():
    """What it opens is of who runs."""
    births = Births("nobody")
    births.enter(Moment("test"))
    sock, birth = in_thread(opened, births)
    sock.close()
    assert (birth.moment.owner, births.elsewhere) == ("test", {})


def test_older_thread_works_for_who_started_it():
    """A server's thread, started by a fixture, opens for the fixture; the test is remembered."""
    births = Births("nobody")
    births.enter(Moment("fixture"))
    go, results = threading.Event(), []
    thread = threading.Thread(target=lambda: (go.wait(), results.append(opened(births))))
    thread.start()
    births.enter(Moment("test"))
    go.set()
    thread.join()
    sock, birth = results[0]
    with sock:
        assert (birth.moment.owner, birth.opened_in) == ("fixture", "test")
        assert births.elsewhere == {birth.inode: birth}


def test_thread_of_a_pool_works_for_who_runs():
    """It was started by another, but is lent."""
    births = Births("nobody")
    births.enter(Moment("fixture"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        births.enter(Moment("test"))
        sock, birth = pool.submit(opened, births).result()
        sock.close()
    assert birth.moment.owner == "test"


def test_between_phases_threads_still_work_for_the_test():
    """While the test runner runs, only the main thread is its."""
    births = Births("runner")
    births.background = Moment("test")
    sock, birth = in_thread(opened, births)
    own, of_main = opened(births)
    with sock, own:
        assert (birth.moment.owner, of_main.moment.owner) == ("test", "runner")


def test_forget():
    """Only stamps of living sockets are kept: those that were seen open, and those made since somebody looked."""
    births = Births("nobody")
    (seen, kept), (closed, _), (unseen, new) = opened(births), opened(births), opened(births)
    closed.close()
    births.forget({kept.inode})
    with seen, unseen:
        assert set(births.by_inode) == {kept.inode, new.inode}


@pytest.mark.parametrize("is_main", [True, False])
def test_context_goes_before_what_runs(is_main):
    """What is known of this thread or task in particular counts, in whichever thread; when it has ended, no more."""
    births = Births("nobody")
    births.enter(Moment("test"))

    def within():
        told = [Moment("block")]
        WITHIN.set(told)
        first = opened(births)
        told.clear()
        return [first, opened(births)]

    made = contextvars.Context().run(within) if is_main else in_thread(within)
    for sock, _ in made:
        sock.close()
    assert made[0][1].moment.owner == "block"
    assert made[0][1].opened_in == "block"
    assert made[1][1].moment.owner in ("test", "nobody")  # as of any thread


def test_context_of_what_is_opened_in_c():
    """Who asks for it is known by context, too."""
    births = Births("nobody")

    def asks(fd):
        WITHIN.set([Moment("block")])
        births.opened(fd, ())

    with socket.socket() as sock:
        contextvars.Context().run(asks, sock.fileno())
        assert births.by_inode[inode_of(sock)].moment.owner == "block"


def test_thrown_away_once():
    """A socket that its transport and its own finaliser tell of is one death."""
    births = Births("nobody")
    sock, birth = opened(births)
    births.thrown_away(sock.fileno(), sock)
    births.thrown_away(sock.fileno(), sock)
    sock.close()
    births.thrown_away(-1, sock)
    assert [death.birth for death in births.deaths] == [birth]


def test_a_stack_that_was_not_seen_is_not_internal():
    """What was opened in C may be anybody's."""
    assert not is_internal(())


def ensure_running():
    """Stands for what multiprocessing opens once, for the life of the process."""


def connect():
    """Stands for all else."""


@pytest.mark.parametrize(
    ("module", "function", "expected"),
    [
        ("multiprocessing.forkserver", ensure_running, True),
        ("multiprocessing.forkserver", connect, False),
        ("app.forkserver", ensure_running, False),
    ],
)
def test_what_the_library_keeps_for_ever_is_internal(module, function, expected):
    """The listener by which the fork server is asked; what a function of that name elsewhere opens is not."""
    calls = (Call(function.__code__, 0, module),)
    assert is_internal(calls) == expected


def test_a_job_of_another_thread_counts_for_what_runs_in_the_background():
    """A server's thread that hands work to its pool works for the test that runs, also while that is judged."""
    births = Births("nobody")
    births.background = Moment("test")

    class Job:
        def __init__(self):
            births.given(self)

    by_thread, by_main = in_thread(Job), Job()
    assert (births._jobs[by_thread], births._jobs[by_main]) == ("test", "nobody")  # noqa: SLF001
