"""How is a transport taken in at no cost for the data? A trampoline stands where its protocol belongs, for one call.

The event loop is given a trampoline for a protocol. When the connection is made, it has the
transport taken in, puts the real protocol in its place by `transport.set_protocol()`, and hands
the call on. From then on loop, transport and protocol know nothing of us. `set_protocol` is also
where transports of asyncio and uvloop choose between `data_received` and `get_buffer`.

What happens before is not seen here: a TLS handshake that fails never makes a connection.
"""

from typing import Any

from sockguard.adapters.loops.group import LoopGroup
from sockguard.adapters.loops.members import Member

__all__ = ["StreamTrampoline", "over"]


class Trampoline:
    """Stands in a protocol's place until its connection is made.

    Args:
        real: The protocol.
        group: Takes the transport in.
    """

    __slots__ = ("_group", "_real")

    def __init__(self, real: Any, group: LoopGroup) -> None:
        self._real = real
        self._group = group

    def __getattr__(self, name: str) -> Any:
        """Passes on whatever else may be called."""
        return getattr(self._real, name)

    def connection_made(self, transport: Any) -> None:
        """Steps aside; what the real protocol raises is the event loop's to report, but nobody would end it then."""
        self._begin(transport)

    def _begin(self, transport: Any) -> Member | None:
        protocol, member = self._group.welcome(transport, self._real)
        transport.set_protocol(protocol)
        is_taken = False
        try:
            protocol.connection_made(transport)
            is_taken = True
        finally:
            if member is not None:
                self._group.admit(member)
                if not is_taken:
                    self._group.let_go(transport, member, self._closed())
        return member

    def _closed(self) -> Any:
        """Gives a future that is done when the transport has closed; None if there is none."""
        return None


class StreamTrampoline(Trampoline):
    """Stands in the place of an `asyncio.StreamReaderProtocol` of a server."""

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        """Steps aside, and has an eye on the handler that was started."""
        try:
            member = self._begin(transport)
        finally:
            writer = self._group.take_writer()
        task = self._real._task  # noqa: SLF001 - pinned by tests/adapters/test_asyncio.py for each Python
        if member is not None and task is not None:
            self._group.attend(self._real, member, writer, task)

    def _closed(self) -> Any:
        return self._real._closed  # noqa: SLF001 - what writer.wait_closed() awaits


def over(protocol: Any, group: LoopGroup) -> Any:
    """Puts a trampoline over a protocol; what is none is the event loop's to refuse, in its own words."""
    return Trampoline(protocol, group) if hasattr(protocol, "connection_made") else protocol
