"""no_socket_leaks and verify_none: blocks, functions and programs that must close what they open."""

import asyncio
import contextlib
import inspect
import linecache
import pickle
import socket
import subprocess
import sys
import threading

import pytest

import sockguard
from loopback import connect, listen
from sockguard import SocketLeakError, UsageError, no_socket_leaks
from sockguard.testing import verify_none

PATIENCE = 5.0
KEPT = []


@contextlib.contextmanager
def leaking(**options):
    """Expects the block to be charged; the error is in the list that is given."""
    caught = []
    with pytest.raises(SocketLeakError) as info, no_socket_leaks(**{"grace": 0, **options}):
        yield caught
    caught.append(info.value)


def test_open_socket_is_told():
    """The record has cause, place and holder; the message begins with the place."""
    with leaking() as caught:
        KEPT.append(socket.socket())
    [error] = caught
    [leak] = error.leaks
    KEPT.pop().close()
    assert (leak.cause, leak.protocol, leak.state) == ("retained", "TCP", "UNCONNECTED")
    assert leak.source == "KEPT.append(socket.socket())"
    assert leak.held_by[0].startswith("list 'KEPT' of module ")
    assert str(error).startswith("1 socket left open, opened at ")
    assert isinstance(error, AssertionError)


def test_everything_closed_passes():
    """The repaired block is silent; what was open before does not count."""
    with connect() as connection, no_socket_leaks(), socket.create_connection(connection.listener.getsockname()):
        pass


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("is_cycle", [False, True])
def test_thrown_away_is_unclosed(is_cycle):
    """Whether reference counting or the garbage collector closes it: nobody did."""
    with leaking() as caught:
        thing = [socket.socket()]
        thing += [thing] if is_cycle else []
        del thing
    assert [leak.cause for leak in caught[0].leaks] == ["unclosed"]


def test_peer_has_hung_up():
    """A connection in CLOSE_WAIT is told with the cause that a report has."""
    with listen() as listener:
        with leaking() as caught:
            client = socket.create_connection(listener.getsockname())
            served, _ = listener.accept()
            client.close()
        served.close()
    [leak] = caught[0].leaks
    assert (leak.cause, leak.state) == ("eof_unread", "CLOSE_WAIT")
    assert leak.remedy == sockguard.Cause.EOF_UNREAD.remedy


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_peer_of_garbage_has_hung_up():
    """The collector may run at any moment, also while we judge; each of ten is told all the same."""

    class Client:
        def __init__(self, address):
            self.itself = self
            self.sock = socket.create_connection(address)

    with listen() as listener:
        for _ in range(10):
            with leaking() as caught:
                Client(listener.getsockname())
                listener.accept()[0].close()
            assert len(caught[0].leaks) == 1


def test_grace():
    """A thread that closes in time is waited for."""
    with no_socket_leaks(grace=PATIENCE):
        threading.Timer(0.05, socket.socket().close).start()


def test_ignored():
    """What a line matches may stay open."""
    with no_socket_leaks(grace=0, ignore=["created-by:*.test_ignored"]):
        kept = socket.socket()
    kept.close()


def test_warns():
    """With action="warn" it is a warning."""
    with pytest.warns(ResourceWarning, match="1 socket left open"), no_socket_leaks(action="warn", grace=0):
        kept = socket.socket()
    kept.close()


def test_warning_names_the_line_of_the_caller(kept):
    """Not one of ours, whether the block is a `with` or a function of any kind."""

    @no_socket_leaks(action="warn", grace=0)
    def plain():
        kept.append(socket.socket())

    @no_socket_leaks(action="warn", grace=0)
    def generator():
        kept.append(socket.socket())
        yield

    @no_socket_leaks(action="warn", grace=0)
    async def coroutine():
        kept.append(socket.socket())

    async def main():
        await coroutine()
        async with no_socket_leaks(action="warn", grace=0):
            kept.append(socket.socket())

    with pytest.warns(ResourceWarning) as told:  # noqa: PT031 - each of them warns
        with no_socket_leaks(action="warn", grace=0):
            kept.append(socket.socket())
        plain()
        list(generator())
        asyncio.run(main())
    places = [(warning.filename, linecache.getline(warning.filename, warning.lineno).strip()) for warning in told]
    lines = ['with no_socket_leaks(action="warn", grace=0):', "plain()", "list(generator())", "await coroutine()"]
    assert places == [(__file__, line) for line in (*lines, f"async {lines[0]}")]


def test_own_error_passes():
    """Where the block raises, that is told and nothing else."""
    made = []
    with pytest.raises(ZeroDivisionError), no_socket_leaks(grace=0):  # noqa: PT012 - that is the block
        made.append(socket.socket())
        raise ZeroDivisionError
    made[0].close()


def test_nested_blocks_tell_once():
    """What the inner block was charged with, or was told to ignore, is not told by the outer one."""
    with no_socket_leaks(grace=0):
        with leaking():
            kept = socket.socket()
        with no_socket_leaks(grace=0, ignore=["created-by:*"]):
            wanted = socket.socket()
    kept.close()
    wanted.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_decorator():
    """Each call of a function is a block of its own."""

    @no_socket_leaks(grace=0)
    def leak():
        return socket.socket()

    for _ in range(2):
        with pytest.raises(SocketLeakError) as info:
            leak()
        del info
    assert leak.__name__ == "leak"


def test_decorator_of_a_generator_function(kept):
    """The block lasts from the first step to the last; what is sent, thrown and returned passes through."""

    @no_socket_leaks(grace=0)
    def echo(leaks):
        try:
            got = yield "ready"
        except KeyError:
            got = "thrown"
        if leaks:
            kept.append(socket.socket())
        return got

    assert inspect.isgeneratorfunction(echo)
    steps = echo(leaks=False)
    assert next(steps) == "ready"
    with pytest.raises(StopIteration) as end:
        steps.send("sent")
    assert end.value.value == "sent"
    steps = echo(leaks=False)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.throw(KeyError())
    assert end.value.value == "thrown"
    with pytest.raises(SocketLeakError, match="in echo"):
        list(echo(leaks=True))


def test_generator_that_is_closed_early(kept):
    """Its own clean-up is done; it is not judged, as it did not come to its end, and nothing of it remains."""
    ends = []

    @no_socket_leaks(grace=0)
    def opens():
        kept.append(socket.socket())
        try:
            yield 1
        finally:
            ends.append("closed")

    steps = opens()
    next(steps)
    steps.close()
    assert ends == ["closed"]
    with no_socket_leaks(grace=0):
        pass


def test_what_can_be_no_decorated_block():
    """A class, an async generator function and what cannot be called are refused at once, with what to do instead."""

    class Tests:
        pass

    async def agen():
        yield 1

    for thing, remedy in ((Tests, "decorate its methods"), (agen, "async with"), (classmethod(print), "below")):
        with pytest.raises(UsageError, match=remedy):
            no_socket_leaks()(thing)


def test_coroutines():
    """`async with` and the decorator let the loop close what it was told to, and find what it was not."""

    @no_socket_leaks(grace=PATIENCE)
    async def good(address):
        _, writer = await asyncio.open_connection(*address)
        writer.close()

    @no_socket_leaks(grace=0)
    async def bad(address):
        writers.append((await asyncio.open_connection(*address))[1])

    async def main(address):
        await good(address)
        async with no_socket_leaks(grace=PATIENCE):
            await good(address)
        with pytest.raises(SocketLeakError, match="in bad"):
            await bad(address)
        writers[0].close()
        await writers[0].wait_closed()

    writers = []
    with listen() as listener:
        asyncio.run(main(listener.getsockname()))


def in_threads(*functions):
    """Runs functions at the same time, and gives what each returned."""
    results = {}
    threads = [
        threading.Thread(target=lambda n=n, function=function: results.update({n: function()}))
        for n, function in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[n] for n in range(len(functions))]


def told_of(check, work):
    """Runs work in a block; gives the lines of code that it is charged with."""
    try:
        with check:
            work()
    except SocketLeakError as error:
        return [leak.source for leak in error.leaks]
    return []


@pytest.fixture
def kept():
    """Sockets that a block leaves open; closed in the end."""
    made = []
    yield made
    for sock in made:
        sock.close()


def test_in_a_thread(kept):
    """A block finds what its own thread opens, if that is not the main one."""
    [told] = in_threads(lambda: told_of(no_socket_leaks(grace=0), lambda: kept.append(socket.socket())))
    assert len(told) == 1


@pytest.mark.parametrize("is_shared", [False, True])
def test_in_two_threads_at_the_same_time(kept, is_shared):
    """Each block is charged with what its own thread opens, also if one object makes both."""
    both_run, both_have_opened = threading.Barrier(2), threading.Barrier(2)
    shared = no_socket_leaks(grace=0.2)

    def leaks():
        both_run.wait(PATIENCE)
        kept.append(socket.socket())
        both_have_opened.wait(PATIENCE)

    def closes():
        both_run.wait(PATIENCE)
        with socket.socket():
            both_have_opened.wait(PATIENCE)

    checks = [shared if is_shared else no_socket_leaks(grace=0.2) for _ in range(2)]
    told = in_threads(lambda: told_of(checks[0], leaks), lambda: told_of(checks[1], closes))
    assert told == [["kept.append(socket.socket())"], []]


def test_in_two_tasks_at_the_same_time(kept):
    """Each block is charged with what its own task opens, and the tasks that this one starts."""

    async def leaks(barrier):
        async with no_socket_leaks(grace=0):
            await barrier.wait()
            await asyncio.create_task(opens())
            await barrier.wait()

    async def opens():
        kept.append(socket.socket())

    async def closes(barrier):
        async with no_socket_leaks(grace=PATIENCE):
            await barrier.wait()
            with socket.socket():
                await barrier.wait()

    async def main():
        barrier = asyncio.Barrier(2)
        return await asyncio.gather(leaks(barrier), closes(barrier), return_exceptions=True)

    guilty, innocent = asyncio.run(main())
    assert innocent is None
    assert [leak.source for leak in guilty.leaks] == ["kept.append(socket.socket())"]


def test_thread_that_a_block_starts(kept):
    """Works for the block; of threads of others, the socket is who started them's."""
    may_open = threading.Event()

    def opens():
        may_open.wait(PATIENCE)
        kept.append(socket.socket())

    older = threading.Thread(target=opens)
    older.start()
    told = told_of(no_socket_leaks(grace=0), lambda: (may_open.set(), older.join()))
    assert (told, len(kept)) == ([], 1)
    [told] = [told_of(no_socket_leaks(grace=0), lambda: in_threads(opens))]
    assert told == ["kept.append(socket.socket())"]


def test_trio():
    """The waiting is done in whichever loop runs."""
    trio = pytest.importorskip("trio")

    async def main():
        async with no_socket_leaks(grace=PATIENCE):
            sock = socket.socket()
            threading.Timer(0.05, sock.close).start()

    trio.run(main)


def test_error_can_be_pickled():
    """It crosses processes with all its records."""
    with leaking() as caught:
        kept = socket.socket()
    kept.close()
    for error in caught:
        copy = pickle.loads(pickle.dumps(error))
        assert (copy.leaks, copy.owner, str(copy)) == (error.leaks, error.owner, str(error))


@pytest.mark.parametrize(
    "options",
    [
        {"action": "cry"},
        {"grace": -1},
        {"grace": float("nan")},
        {"grace": float("inf")},
        {"grace": "1"},
        {"ignore": ["nonsense"]},
    ],
)
def test_nonsense_is_refused(options):
    """An argument that makes no sense is an error at once."""
    with pytest.raises(UsageError):
        no_socket_leaks(**options)


WRAPPED = """
import socket
from sockguard import no_socket_leaks
before = dict(vars(socket.socket))
with no_socket_leaks():
    print(dict(vars(socket.socket)) == before)
print(dict(vars(socket.socket)) == before)
"""


def test_nothing_stays_wrapped():
    """After the last block `socket.socket` is as it was; in a process of its own, as here the plugin may watch, too."""
    done = subprocess.run([sys.executable, "-P", "-c", WRAPPED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


@pytest.mark.parametrize("options", [{"grace": -1}, {"grace": float("inf")}, {"grace": "1"}, {"ignore": ["nonsense"]}])
def test_nonsense_is_refused_by_verify_none(options):
    """Before anything is looked at."""
    with pytest.raises(UsageError):
        verify_none(**options)


PROGRAM = """
import asyncio, socket
from sockguard.testing import verify_none, SocketLeakError
loop = asyncio.new_event_loop()
verify_none(grace=0)
near, far = socket.socketpair()
try:
    verify_none(grace=0)
except SocketLeakError as error:
    print(len(error.leaks), error.leaks[0].held_by[0].split()[1])
verify_none(grace=0, ignore=["path:*"])
import os
verify_none(grace=0, baseline=[os.fstat(s.fileno()).st_ino for s in (near, far)])
near.close(); far.close()
verify_none()
loop.close()
"""


def test_verify_none():
    """A whole process: sockets that were there before count, those of event loops do not."""
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2 'near'\n", "")
    assert callable(verify_none)
