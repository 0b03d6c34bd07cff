"""A guard that is driven by hand: real sockets, and a clock that a test moves."""

import contextlib
import math
import socket
import time
from collections.abc import Iterator

from sockguard._core.events import Event
from sockguard._core.policy import Policy
from sockguard._engine.guard import Guard
from sockguard._engine.record import Record
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms

__all__ = ["Driven", "accepted_by_two_lines", "driven"]


class Driven:
    """A guard without a thread; nothing happens but at `tick`."""

    def __init__(self, **fields: object) -> None:
        self.events: list[Event] = []
        self.now = time.monotonic()
        self.guard = Guard(Policy(**fields), lambda event, _: self.events.append(event))
        # Both ends are in this process, and the guard would find the other one, too.
        self.guard._sweep._established._due_at = math.inf  # noqa: SLF001

    def adopt(self, sock, *, is_server: bool = True, terms: Terms | None = None) -> Record:
        """Takes a socket in, as accept() or connect() would, and gives its record."""
        fd = sock.fileno()
        self.guard.adopt(sock, sock, is_server, terms=terms)
        self.guard.registry.enlist(self.now)
        return self.guard.registry.by_fd[fd]

    def tick(self, after: float = 0.25) -> None:
        """Lets time pass, and then the guard do its work."""
        self.now += after
        self.guard.tick(self.now)
        failures = [event.message for event in self.events if event.name == "guard_failed"]
        assert failures == [], failures

    def told(self, name: str) -> list[Event]:
        """Lists the events of one name, so far."""
        return [event for event in self.events if event.name == name]

    def closed(self, sock=None) -> list[tuple[object, object]]:
        """Lists reason and step of each connection that the guard began to end, or of one of them."""
        events = self.told("connection_closed")
        if sock is not None:
            events = [event for event in events if event.fields["fd"] == sock.fileno()]
        return [(event.fields["reason"], event.fields["step"]) for event in events]


@contextlib.contextmanager
def driven(**fields: object) -> Iterator[Driven]:
    """Makes a guard with this policy, and gives its descriptors back in the end."""
    made = Driven(**fields)
    try:
        yield made
    finally:
        made.guard.stop()


def accepted_by_two_lines(d: Driven, listener: socket.socket) -> list[Site]:
    """Accepts four connections, the second and third by a line of its own; gives where each is said to be accepted."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection(listener.getsockname()))

        def here():
            return stack.enter_context(listener.accept()[0])

        def there():
            return stack.enter_context(listener.accept()[0])

        for accept in (here, there, there, here):
            accept()
        opened = (*d.guard.registry.opened, *d.guard._stamped.records.opened)  # noqa: SLF001 - on either back end
        return [site for _, _, is_server, _, site, *_ in opened if is_server]
