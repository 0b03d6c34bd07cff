"""The names that are wrapped while sockets are taken down: what they note, and that nothing of it remains."""

import asyncio
import socket

import pytest

from loopback import connect, inode_of
from sockguard._engine.blame.births import Births
from sockguard.adapters.births import hooks
from sockguard.adapters.wrapping import Wrappings


@pytest.fixture
def births():
    """Books that every new socket goes into."""
    made = Births("owner")
    wrappings = Wrappings()
    for hook in hooks(made, lambda: lambda: made.deaths.append("closed a loop")):
        wrappings.add(hook)
    yield made
    wrappings.undo()


def test_every_socket_is_noted(births):
    """Made by hand, accepted, in a pair, by dup() and by detach(): the one stamp is that of the inode."""
    with connect() as connection:
        assert {inode_of(sock) for sock in connection} <= births.by_inode.keys()
        inode = inode_of(connection.client)
        calls = births.by_inode[inode].calls
        with connection.client.dup() as duplicate:
            assert births.by_inode[inode].calls is calls
            assert len(births.by_inode[inode].objects()) == 2
            assert inode_of(duplicate) == inode
    near, far = socket.socketpair()
    with near, far:
        assert births.by_inode[inode_of(near)].calls[1].code.co_name == "test_every_socket_is_noted"


def test_one_thrown_away_open_is_a_death(births):
    """Its address is still known; the standard library warns as ever."""
    with connect() as connection:
        sock = socket.create_connection(connection.listener.getsockname())
        port = sock.getsockname()[1]
        with pytest.warns(ResourceWarning, match="unclosed <socket"):
            del sock
        [death] = births.deaths
        assert death.sketch.local == f"127.0.0.1:{port}"


def test_one_that_was_closed_or_detached_is_none(births):
    """Who closes, or passes the descriptor on, has done his duty."""
    sock = socket.socket()
    sock.close()
    del sock
    first = socket.socket()
    second = socket.socket(fileno=first.detach())
    del first
    second.close()
    assert births.deaths == []


def test_a_duplicate_lives_on(births):
    """Thrown away while a duplicate is in use: the socket is not lost."""
    sock = socket.socket()
    with sock.dup():
        with pytest.warns(ResourceWarning):
            del sock
        assert births.deaths == []


def test_forgotten_stream_is_a_death(births):
    """A transport that nobody refers to is closed by asyncio; it is noted before."""

    async def main(address):
        await asyncio.open_connection(*address)

    with connect() as connection, pytest.warns(ResourceWarning):
        asyncio.run(main(connection.listener.getsockname()))
    assert len(births.deaths) == 1


def test_wakers_of_loops_are_internal(births):
    """The pair of sockets by which a loop is woken up is nobody's."""
    before = set(births.by_inode)
    loop = asyncio.new_event_loop()
    own = [births.by_inode[inode] for inode in births.by_inode.keys() - before]
    loop.close()
    assert [birth.is_internal for birth in own] == [True, True]


def test_uvloop_is_asked_who_connects(births):
    """What connects in C, as uvloop does: the call is noted when it is made. Its end of a loop is announced."""
    uvloop = pytest.importorskip("uvloop")

    async def main(address):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        inode = inode_of(transport.get_extra_info("socket"))
        transport.close()
        return births.by_inode[inode].calls[0].code.co_name

    with connect() as connection:
        loop = uvloop.new_event_loop()
        assert loop.run_until_complete(main(connection.listener.getsockname())) == "main"
        loop.close()
    assert births.deaths == ["closed a loop"]


def test_undone_exactly():
    """Each name refers to what it referred to before, and the finaliser is gone."""
    before = dict(vars(socket.socket))
    wrappings = Wrappings()
    for hook in hooks(Births(None), lambda: lambda: None):
        wrappings.add(hook)
    assert "__del__" in vars(socket.socket)
    wrappings.undo()
    assert dict(vars(socket.socket)) == before
