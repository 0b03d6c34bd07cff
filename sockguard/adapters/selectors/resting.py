"""Which registrations of a selector rest? Their connection is reported less often, as its handler ignores its end.

To the program such a connection is registered as ever. The inner selector does not know it
for a while, or knows it without EVENT_READ if the handler also waits to send: then that goes on.
"""

import sys
from collections.abc import Iterator, Mapping
from selectors import EVENT_READ, BaseSelector, SelectorKey
from typing import Any, NamedTuple

from sockguard._engine.sockets.shown import ShownToSelector
from sockguard._kernel.alarm import Alarm
from sockguard.adapters.selectors.taken_away import TakenAway, number_of

__all__ = ["RegisteredMap", "Rest", "Resting"]


NEEDS_ONE = sys.platform == "win32"
"""select() of Windows refuses to wait for nothing."""


class Rest(NamedTuple):
    """One registration that rests."""

    key: SelectorKey
    """As the program has made it."""
    until: float
    is_hidden: bool
    """The inner selector does not know it."""


class Resting:
    """The registrations that rest.

    Args:
        inner: The selector that does the work.
    """

    def __init__(self, inner: BaseSelector) -> None:
        self._inner = inner
        self.by_fd: dict[int, Rest] = {}

    def __iter__(self) -> Iterator[Rest]:
        yield from tuple(self.by_fd.values())

    def of(self, fileobj: Any) -> Rest | None:
        """Finds that of a file object, also if it was closed meanwhile."""
        if not self.by_fd:
            return None
        if (fd := number_of(fileobj)) >= 0:
            return self.by_fd.get(fd)
        return next((rest for rest in self if rest.key.fileobj is fileobj), None)

    def begin(self, key: SelectorKey, until: float, *, may_send: bool) -> bool:
        """Lets a registration rest; False if there is nothing that could.

        Args:
            may_send: Readiness for sending goes on being reported.
        """
        left = key.events & ~EVENT_READ if may_send else 0
        if left == key.events or (NEEDS_ONE and not left and len(self._inner.get_map()) == 1):
            return False
        with ShownToSelector(key.fileobj):
            if left:
                self._inner.modify(key.fileobj, left, key.data)
            else:
                self._inner.unregister(key.fileobj)
        self.by_fd[key.fd] = Rest(key, until, not left)
        return True

    def end(self, rest: Rest) -> None:
        """Has a connection reported again.

        Raises:
            OSError: It is closed.
        """
        key = rest.key
        with ShownToSelector(key.fileobj):
            if rest.is_hidden:
                self._inner.register(key.fileobj, key.events, key.data)
            else:
                self._inner.modify(key.fileobj, key.events, key.data)
        self.forget(rest)

    def change_data(self, rest: Rest, data: Any) -> SelectorKey:
        """Gives a registration other data; it goes on resting."""
        key = rest.key._replace(data=data)
        self.by_fd[key.fd] = rest._replace(key=key)
        return key

    def forget(self, rest: Rest) -> None:
        """Takes note that a registration is gone, or rests no more."""
        self.by_fd.pop(rest.key.fd, None)

    def as_registered(self, ready: list[tuple[SelectorKey, int]]) -> list[tuple[SelectorKey, int]]:
        """Puts the program's own keys in the place of those that rest in part."""
        if not self.by_fd:
            return ready
        return [(self.by_fd[key.fd].key if key.fd in self.by_fd else key, events) for key, events in ready]

    def clear(self) -> None:
        """Forgets all."""
        self.by_fd.clear()

    def n_hidden(self) -> int:
        """Counts those that the inner selector does not know."""
        return sum(rest.is_hidden for rest in self.by_fd.values())


class RegisteredMap(Mapping[Any, SelectorKey]):
    """What is registered, as the program sees it.

    Args:
        theirs: What the inner selector knows.
        taken: What was taken away from the program.
        ours: What is registered and is not the program's.
    """

    def __init__(
        self, theirs: Mapping[Any, SelectorKey], resting: Resting, taken: TakenAway, ours: Alarm | None
    ) -> None:
        self._theirs, self._resting, self._taken, self._ours = theirs, resting, taken, ours

    def __len__(self) -> int:
        return len(self._theirs) + self._resting.n_hidden() - (self._number_of_ours() >= 0)

    def _number_of_ours(self) -> int:
        """Tells the descriptor of what is not the program's; -1 once the selector is closed."""
        return -1 if self._ours is None or not self._theirs else self._ours.fileno()

    def __iter__(self) -> Iterator[int]:
        ours = self._number_of_ours()
        yield from (fd for fd in self._theirs if fd != ours)
        yield from (rest.key.fd for rest in self._resting if rest.is_hidden)

    def __getitem__(self, fileobj: Any) -> SelectorKey:
        if (rest := self._resting.of(fileobj)) is not None:
            return rest.key
        try:
            with ShownToSelector(fileobj):
                key = self._theirs[fileobj]
            if key.fileobj is not self._ours or self._ours is None:
                return key
        except ValueError:  # it has no descriptor any more
            if self._taken.of(fileobj) is None:
                raise
        msg = f"{fileobj!r} is not registered"
        raise KeyError(msg)
