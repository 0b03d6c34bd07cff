"""What an event loop has of its own. What waits for one is in test_belonging.py."""

import asyncio
import contextlib
import gc
import socket

import pytest

from loopback import inode_of
from sockguard._engine.blame.ledger import Ledger
from sockguard._engine.blame.loops import is_of_loop


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_wakers_of_a_loop_are_known_by_who_refers_to_them(kind):
    """Made before anybody looked: the loop itself has them."""
    module = pytest.importorskip(kind)
    loop = module.new_event_loop()
    with contextlib.closing(loop):
        ledger = Ledger()
        loop.run_until_complete(asyncio.sleep(0))
        inodes = ledger.look()
        for thing in gc.get_objects():
            if issubclass(type(thing), socket.socket):
                ledger.births.born(thing)
        wakers = [inode for inode in inodes if is_of_loop(ledger.births.by_inode[inode])]
        own = {inode_of(loop._ssock), inode_of(loop._csock)} if kind == "asyncio" else set()  # noqa: SLF001
        assert own <= set(wakers)
