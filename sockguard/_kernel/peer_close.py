"""Whose peer has hung up? An epoll set of the guard's own, and its ghosts.

Facts. A descriptor that is put in once, for EPOLLRDHUP and edge-triggered, tells of a FIN
or RST even while nobody reads, and one that the program closes drops out by itself
(epoll(7), questions 6 to 9). So of all connections that come and go properly the set says
nothing, and asking it costs one system call however large it is.

Danger. What drops out is the *open file*, not the number. A file whose descriptor was
closed while a duplicate lives (in a forked child, or by dup) stays in the set and goes on
telling of a number that may be another connection by now. A socket that has not begun to
connect tells of a hang-up at once, and so does our own shutdown(SHUT_RD).

Choice. What comes out of the set is a hint: a number at which to look. Whoever gets it
makes sure by cookie and TCP state. Edge-triggered, so that a connection which the program
leaves open tells once and not at each question.

Price. A forked child inherits the very same set: it must close its copy and make its own
before it puts anything in, or the parent would hear of the child's connections. And a
program that closes all descriptors closes the set, and its number may be an epoll set of
the program's by then. So the set holds a marker, and before each use two questions are
asked: is the marker's number still our blank socket (blank.py), and is that in the set? One
alone would not do: the program may watch another file by the marker's number.
"""

import select

from sockguard._kernel.blank import Blank
from sockguard._kernel.natives import native

__all__ = ["PeerCloseWatch"]

_MAX_EVENTS = 4096


class PeerCloseWatch:
    """The set of watched descriptors of this process.

    Raises:
        OSError: EMFILE, if no descriptor is left.
    """

    def __init__(self) -> None:
        self._mask = select.EPOLLRDHUP | select.EPOLLET
        self._epoll = native("select", "epoll")()
        self._marker = Blank()
        self._epoll.register(self._marker, 0)

    @property
    def is_intact(self) -> bool:
        """Tells whether set and marker are still ours, and not closed or replaced by the program."""
        if not self._marker.is_ours:
            return False
        try:
            self._epoll.modify(self._marker, 0)
        except (OSError, ValueError):
            return False
        return True

    def add(self, fd: int) -> bool:
        """Watches a descriptor; one whose peer has hung up already is told of at once.

        Returns:
            False if the descriptor is closed, or a file of a kind that has no events.
        """
        try:
            try:
                self._epoll.register(fd, self._mask)
            except FileExistsError:
                self._epoll.modify(fd, self._mask)  # arms it anew
        except OSError:
            return False
        return True

    def drain(self) -> list[int]:
        """Lists the numbers at which somebody hung up since the last time."""
        found: list[int] = []
        while True:
            events = self._epoll.poll(0, _MAX_EVENTS)
            found += [fd for fd, _ in events]
            if len(events) < _MAX_EVENTS:
                return found

    def close(self) -> None:
        """Gives the descriptors back; if the program has taken them over, they are left to it."""
        if self.is_intact:
            self._epoll.close()
        else:
            _lost.append(self._epoll)
        self._marker.close()


_lost: list[object] = []
"""Sets whose number is not ours any more: to delete the object would close it."""
