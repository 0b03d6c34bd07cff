"""The books and what belongs to them: who goes on with what is left, what a loop closes, and all that is open."""

import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from loopback import inode_of
from sockguard._engine.blame import judging
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.ledger import Owner
from sockguard._engine.blame.tracking import Tracking

KEPT = []


@pytest.fixture
def tracking():
    """Books that have seen what was open before."""
    made = Tracking()
    made.ledger.look()
    yield made
    made.ledger.shut()


def begin(tracking, name="test"):
    """Has somebody begin; gives who it is and what ran before."""
    owner = Owner(name)
    return owner, tracking.ledger.births.enter(Moment(owner))


def test_hand_over(tracking):
    """What an owner leaves is of who runs again; what others have stays theirs."""
    other, before = begin(tracking, "other")
    with socket.socket() as theirs:
        tracking.ledger.look()
        owner, before = begin(tracking)
        with socket.socket() as left:
            tracking.ledger.look()
            tracking.hand_over(owner, before)
            births = tracking.ledger.births
            assert [births.by_inode[inode_of(sock)].moment.owner for sock in (theirs, left)] == [other, other]
            assert births.moment is before


def test_hand_over_leaves_who_has_begun_since(tracking):
    """If another runs by now, it goes on."""
    owner, before = begin(tracking)
    next_one, _ = begin(tracking, "next")
    tracking.hand_over(owner, before)
    assert tracking.ledger.births.moment.owner is next_one


def everything(tracking, allowed=(), grace=0.0):
    """Charges all that is open; by inode."""
    return {leftover.inode: leftover for leftover in tracking.everything(grace, set(allowed))}


def open_now(tracking):
    """What was open before the test."""
    return set(tracking.ledger.look())


def test_everything(tracking):
    """Also what was open before anybody looked, with who holds it; but not what is allowed."""
    before = open_now(tracking)
    with socket.socket() as sock, socket.socket() as allowed:
        KEPT.append(sock)
        found = everything(tracking, before | {inode_of(allowed)})
        assert list(found) == [inode_of(sock)]
        assert "list 'KEPT' of module " in str(found[inode_of(sock)].held_by)
        KEPT.clear()
    assert everything(tracking, before) == {}


def test_everything_but_loops(tracking):
    """The sockets by which a loop is woken up do not count."""
    before = open_now(tracking)
    loop = asyncio.new_event_loop()
    assert everything(tracking, before) == {}
    loop.close()


def test_everything_but_what_is_closed_meanwhile(tracking, monkeypatch):
    """It waits for that, as long as there is a thread that may do so."""
    before, sock, is_over = open_now(tracking), socket.socket(), threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    monkeypatch.setattr(judging, "sleep", lambda _: sock.close())
    assert everything(tracking, before, grace=60) == {}
    assert sock.fileno() == -1  # else it never waited
    is_over.set()
    thread.join()


PROGRAM = """
import asyncio, uvloop
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.ledger import Owner
from sockguard._engine.blame.tracking import Tracking

async def work(loop):
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for closes in (True, False):
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        if closes:
            transport.close()
            await asyncio.sleep(0.1)

tracking = Tracking()
loop = uvloop.new_event_loop()
tracking.ledger.look()
owner = Owner("test")
tracking.ledger.births.enter(Moment(owner))
loop.run_until_complete(work(loop))
after = tracking.before_loop_closes()
assert tracking.ledger.births.deaths == []
loop.close()
after()
owner.is_over = True
print(*sorted(death.sketch.state for death in tracking.ledger.take_deaths()))
"""


def test_what_uvloop_closes_by_its_own_end():
    """What nobody closed are deaths of who opened it: server, client and what was accepted; not what was closed."""
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("ESTABLISHED ESTABLISHED LISTEN\n", "")


def test_closing_a_loop_goes_on_whatever_happens(tracking, monkeypatch):
    """If nothing can be looked at, nothing is told, and nothing raised into the program."""

    def fail():
        raise OSError

    monkeypatch.setattr(tracking.ledger, "look", fail)
    tracking.before_loop_closes()()
    assert tracking.ledger.births.deaths == []
