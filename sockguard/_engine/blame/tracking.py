"""All that is known of the sockets that this process opens, while somebody wants to know."""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sockguard._core.leftovers import Leftover, Sketch
from sockguard._engine.blame.births import Birth, Death, Moment
from sockguard._engine.blame.judging import Judge
from sockguard._engine.blame.ledger import Ledger, Owner
from sockguard._engine.blame.loops import is_of_loop, things_of_uvloop
from sockguard._engine.blame.queues import Queues
from sockguard._engine.instances import instances_of
from sockguard._kernel.own_fds import read_all_sockets
from sockguard._kernel.own_sockets import fd_of, read_inode, sketch_descriptor

__all__ = ["Tracking"]


class Tracking:
    """The books, and what belongs to them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.queues = Queues(self.ledger)

    def hand_over(self, owner: Owner, before: Moment) -> None:
        """Ends an owner: what is left, and was not told of, is given to who ran before, who runs again."""
        births = self.ledger.births
        for birth in list(births.by_inode.values()):
            if birth.moment.owner is owner:
                birth.moment = before
        if births.moment.owner is owner:
            births.enter(before)

    def before_loop_closes(self) -> Callable[[], object]:
        """Looks which sockets a loop of uvloop closes by its own end: those are left open by whoever opened them.

        uvloop closes all that is open when it is closed, and afterwards there is nothing to see.
        """
        try:
            candidates = self._open_in_loop()
        except Exception:  # noqa: BLE001 - closing a loop must go on
            candidates = []
        return lambda: self._were_closed(candidates)

    def _open_in_loop(self) -> list[tuple[Birth, Sketch]]:
        inodes = self.ledger.look()
        births = [self.ledger.births.by_inode[inode] for inode in inodes]
        births = [b for b in births if not (b.moment.owner.is_excused or b.is_internal or b.is_told)]
        if births:  # else there is no need to look through all objects of the process
            found = set(_inodes_of_uvloop())
            births = [birth for birth in births if birth.inode in found]
        sketches = [(birth, sketch_descriptor(inodes[birth.inode][0], birth.inode)) for birth in births]
        return [(birth, sketch) for birth, sketch in sketches if sketch]

    def _were_closed(self, candidates: list[tuple[Birth, Sketch]]) -> None:
        living = read_all_sockets()
        for birth, sketch in candidates:
            if birth.inode not in living and not birth.is_told:
                birth.is_told = True
                self.ledger.births.deaths.append(Death(birth, sketch))

    def everything(self, grace: float, allowed: set[int]) -> list[Leftover]:
        """Charges all that is open.

        Args:
            grace: Seconds to wait for what is about to be closed.
            allowed: Inodes of sockets that may be open.
        """
        owner = Owner("this process")
        inodes = self.ledger.look()
        self.ledger.ask_again()
        births = self.ledger.births.by_inode
        for sock in instances_of(socket.socket):
            if birth := births.get(read_inode(fd_of(sock))):
                birth.refer_to(sock)
        for inode in inodes.keys() - allowed:
            birth = births[inode]
            birth.is_internal = birth.is_internal or is_of_loop(birth)
            birth.moment = Moment(owner)
        owner.is_over = True
        charges = Judge(self.ledger, self.queues, owner).sit(grace)
        return [charge.leftover for charge in charges if charge.owner is owner]


def _inodes_of_uvloop() -> Iterator[int]:
    """Finds the sockets of uvloop's transports, but those that were told to close, and of its servers."""
    for thing in things_of_uvloop():
        with contextlib.suppress(Exception):  # half made or half gone
            yield from (read_inode(int(sock.fileno())) for sock in _sockets_of(thing, type(thing).__name__))


def _sockets_of(thing: Any, kind: str) -> Iterable[Any]:
    if kind == "Server":
        return list(thing.sockets)
    is_open = "Transport" in kind and not thing.is_closing()
    return [thing.get_extra_info("socket")] if is_open else []
