"""Who is charged with which open socket? Owners, and the books that say what is due when an owner is over.

An owner is a test or a fixture of a wider scope. What it opened is due when it is over, which is
after its teardown. What was open before, or belongs to the test runner, is the baseline's.
"""

import select
from collections.abc import Iterable
from typing import Any, NamedTuple

from sockguard._core.facts import Holder
from sockguard._core.leftovers import Sketch
from sockguard._engine.blame.births import Birth, Births, Death, Moment
from sockguard._kernel.natives import new_poll, sleep
from sockguard._kernel.own_fds import read_fd_count
from sockguard._kernel.own_sockets import find_holders_among_children, has_children, read_descriptors, sketch_descriptor
from sockguard._kernel.standing import Standing

__all__ = ["IN_CHILD", "Ledger", "Owner", "Suspect"]

IN_CHILD = Sketch("socket", "held by a child process", "", "")
INTERVAL = 0.01
"""Seconds: twice what a thread may keep the interpreter lock for (sys.getswitchinterval)."""


class Owner:
    """Who is charged with what it leaves open."""

    def __init__(self, name: str, *, is_excused: bool = False) -> None:
        self.name = name
        self.is_over = False
        """Its teardown has ended, so what it opened is due."""
        self.is_excused = is_excused
        """Nobody asks what it leaves open."""
        self.roots: list[Any] = []
        """What it made for others to use while it lives: all that can be reached from there is its own."""

    def __repr__(self) -> str:
        return f"<Owner {self.name or 'of the baseline'}>"


class Suspect(NamedTuple):
    """A socket that is due and still open."""

    birth: Birth
    owner: Owner
    fd: int
    """Of this process, or of the child."""
    sketch: Sketch
    child: Holder | None = None
    """Which child has it; None for this process."""


class Ledger:
    """The books of this process."""

    def __init__(self) -> None:
        self.baseline = Owner("", is_excused=True)
        self.births = Births(self.baseline)
        self.owners: list[Owner] = []
        """Those of a wider scope than a test, while they live."""
        self.inodes: dict[int, list[int]] = {}
        """What was open at the last look: inode -> descriptors."""
        self._standing = Standing()
        self._n_fds = 0
        self._quiet: set[int] = set()
        """Those that nobody will be charged with."""

    def look_if_changed(self) -> None:
        """Gives what was opened in C since the last look to who runs just now, if the count of descriptors differs."""
        if self._n_fds != read_fd_count():
            self.look()

    def look(self, moment: Moment | None = None) -> dict[int, list[int]]:
        """Lists the open sockets: inode -> descriptors.

        Args:
            moment: Whose those are that were opened in C; of who runs just now, if not given.
        """
        if not self._standing.is_same():
            self._look_at_all()
        for inode in self.inodes.keys() - self.births.by_inode.keys():
            self.births.found(inode, moment or self.births.moment)
        return self.inodes

    def _look_at_all(self) -> None:
        before = self.inodes
        self.inodes, others = read_descriptors()
        self._n_fds = sum(map(len, self.inodes.values())) + len(others)
        if self.inodes == before:  # it will be the same again
            self._standing.remember(self.inodes, others)
            self._n_fds = read_fd_count()

    def shut(self) -> None:
        """Gives back the descriptors that are kept for looking."""
        self._standing.close()

    def due(self, *, is_fresh: bool = False) -> list[Suspect]:
        """Finds what is open, or kept open by a child, though its owner is over.

        Args:
            is_fresh: The last look was right now.
        """
        inodes = self.inodes if is_fresh else self.look()
        by_inode = self.births.by_inode
        births = [birth for inode in sorted(inodes.keys() - self._quiet) if _is_due(birth := by_inode[inode])]
        suspects = [suspect for birth in births if (suspect := _suspect(birth, inodes[birth.inode][0]))]
        suspects = [s._replace(owner=s.birth.opened_in) if self._was_left_by_client(s) else s for s in suspects]
        suspects += self.abandoned(list(self.births.elsewhere.values()))
        return suspects + self._kept_by_children(inodes) if has_children() else suspects

    def tell(self, suspects: list[Suspect]) -> list[Suspect]:
        """Takes note that these are told of.

        Leaves out what a server still has open because the client, of somebody else's, is: that one is charged.
        """
        for suspect in suspects:
            suspect.birth.is_told = True
        accepted = (s for s in suspects if s.birth.inode in self.births.elsewhere and s.birth.may_be_accepted)
        served = [suspect for suspect in accepted if not suspect.sketch.is_sick]
        if not served:
            return suspects
        ends = {end for inode, fds in self.inodes.items() if (end := _ends(sketch_descriptor(fds[0], inode)))}
        excused = [s for s in served if (s.sketch.remote, s.sketch.local) in ends]
        return [suspect for suspect in suspects if suspect not in excused]

    def take_deaths(self, of: Owner | None = None) -> list[Death]:
        """Gives out, once, what was thrown away while it was open, by those who are over."""
        deaths, self.births.deaths = self.births.deaths, []
        counted = [d for d in deaths if not (d.birth.is_internal or d.birth.moment.owner.is_excused)]
        due = [d for d in counted if d.birth.moment.owner.is_over and of in (None, d.birth.moment.owner)]
        self.births.deaths += [death for death in counted if death not in due]
        return due

    def close(self) -> None:
        """Ends the work on an owner: forgets what is closed, and whom nobody asks for any more."""
        self.births.forget(self.inodes.keys())
        by_inode = self.births.by_inode
        self._quiet &= by_inode.keys()
        self._quiet |= {inode for inode in by_inode.keys() - self._quiet if _is_of_nobody(by_inode[inode])}

    def ask_again(self) -> None:
        """Has all that is open be looked at once more, as somebody else is to be charged with it."""
        self._quiet.clear()

    def _was_left_by_client(self, suspect: Suspect) -> bool:
        """Tells of a server's connection whether it ended in a test: then that is to be charged, not the server."""
        is_elsewhere = suspect.birth.inode in self.births.elsewhere
        return is_elsewhere and suspect.sketch.is_sick and not suspect.birth.opened_in.is_excused

    def _kept_by_children(self, inodes: Iterable[int]) -> list[Suspect]:
        """Finds sockets that we closed and a child has a copy of."""
        mine = set(inodes)
        closed = {b.inode: b for b in list(self.births.by_inode.values()) if b.inode not in mine and _is_due(b)}
        found = find_holders_among_children(closed)
        return [
            Suspect(closed[inode], closed[inode].moment.owner, holder.fd, IN_CHILD, holder)
            for inode, (holder, *_) in found.items()
        ]

    def abandoned_early(self, test: Owner) -> list[Suspect]:
        """Finds what servers keep of clients that have gone, before a test is torn down, and they perhaps with it."""
        if self._n_fds != read_fd_count():
            if read_descriptors()[0].keys() - self.births.by_inode.keys():
                sleep(INTERVAL)  # a thread may have accepted it, and wait for the interpreter lock to tell
            self.look(Moment(test))
        by_inode = self.births.by_inode
        in_c = [birth for i in self.inodes.keys() - self._quiet if not (birth := by_inode[i]).calls]
        return self.abandoned([*self.births.elsewhere.values(), *in_c])

    def abandoned(self, births: Iterable[Birth]) -> list[Suspect]:
        """Finds those of these connections whose peer has gone; charged is who ran when they were opened."""
        births = [birth for birth in births if _may_be_charged(birth) and birth.inode in self.inodes]
        if not births:
            return []
        poller = new_poll()
        by_fd = {self.inodes[birth.inode][0]: birth for birth in births}
        for fd in by_fd:
            poller.register(fd, select.POLLRDHUP)
        suspects = [_suspect(by_fd[fd], fd) for fd, _ in poller.poll(0)]
        return [s._replace(owner=s.birth.opened_in) for s in suspects if s and s.sketch.is_sick]


def _may_be_charged(birth: Birth) -> bool:
    """Tells of somebody else's socket whether the test that ran when it was opened may be charged with it."""
    is_waiting = birth.waits is not None and not birth.waits.is_over()
    return not (birth.is_told or birth.opened_in.is_excused or is_waiting) and birth.may_be_accepted


def _ends(sketch: Sketch | None) -> tuple[str, str] | None:
    return (sketch.local, sketch.remote) if sketch and sketch.remote else None


def _is_of_nobody(birth: Birth) -> bool:
    return birth.is_internal or birth.is_told or birth.moment.owner.is_excused


def _is_due(birth: Birth) -> bool:
    if not birth.moment.owner.is_over or _is_of_nobody(birth):
        return False
    return birth.waits is None or birth.waits.is_over()


def _suspect(birth: Birth, fd: int) -> Suspect | None:
    """Takes a closer look; what is not of a family that counts is never looked at again."""
    sketch = sketch_descriptor(fd, birth.inode)
    if sketch is None:
        return None  # closed since it was listed
    if not sketch.protocol:
        birth.is_internal = True
        return None
    return Suspect(birth, birth.moment.owner, fd, sketch)
