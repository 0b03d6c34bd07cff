"""no_socket_leaks and verify_none: blocks, functions and programs that must close what they open."""

import asyncio
import contextlib
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
    "options", [{"action": "cry"}, {"grace": -1}, {"grace": float("nan")}, {"grace": "1"}, {"ignore": ["nonsense"]}]
)
def test_nonsense_is_refused(options):
    """An argument that makes no sense is an error at once."""
    with pytest.raises(UsageError):
        no_socket_leaks(**options)


def test_nothing_stays_wrapped():
    """After the last block `socket.socket` is as it was."""
    before = dict(vars(socket.socket))
    with no_socket_leaks():
        assert dict(vars(socket.socket)) != before
    assert dict(vars(socket.socket)) == before


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
