"""Who owns the connection below a stream of anyio, and how does he let go of it?

The guard refers to an owner weakly, and asks it.

- On asyncio it is the transport. Only `abort()`, on its loop's thread, releases the descriptor
  in a way that loop and protocol understand, and it wakes whoever waits. Nothing else would do
  on uvloop, whose loop keeps no table of its transports.
- On trio no such object exists: whoever has a socket may close it, but only between two steps
  of trio's thread, and after telling trio (`notify_closing`). So the owner is a small object of
  ours that knows how, and lives as long as the stream. The guard has shut the connection down
  by then, so a task that waited for it has been woken.
- An AF_UNIX stream of asyncio waits with `add_reader`, for a bare socket. That is the owner, and
  nobody else may close it: the stream's next call does, or the end of its handler.

Neither anyio nor trio is imported here; they are met in the objects that are handed in.
"""

import contextlib
import functools
import socket
import sys
from typing import Any

from sockguard._core.facts import Address, Names
from sockguard._core.inference import opened_by_us
from sockguard._engine.guard import Guard
from sockguard._engine.record import running_loop
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms
from sockguard._engine.transports import fd_of_transport
from sockguard._kernel.activity import is_over
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard._kernel.one_socket import read_facts, read_unread

__all__ = ["adopt_stream", "is_dead", "names_of", "socket_below", "unread_bytes", "was_accepted"]

_LAYERS = ("transport_stream", "receive_stream", "_stream")
"""Where TLSStream, the streams that buffer or staple, and a guarded stream have the stream below."""


class _OnTrio:
    """Owns a connection of trio: closes its socket on trio's own thread. To the engine it looks like a transport."""

    __slots__ = ("__weakref__", "_raw", "_token")

    def __init__(self, raw: Any, token: Any) -> None:
        self._raw, self._token = raw, token

    def fileno(self) -> int:
        """Tells the descriptor; -1 once it is closed."""
        return int(self._raw.fileno())

    def get_extra_info(self, name: str) -> Any:
        """Gives the socket."""
        return self._raw if name == "socket" else None

    def abort(self) -> None:
        """Does as `let_go`; an event loop asks for it if trio is its guest."""
        self.let_go("")

    def let_go(self, why: str) -> None:  # noqa: ARG002 - the stream finds it in its terms
        """Closes the socket as soon as trio comes round; called by the guard after it has shut the connection down."""
        with contextlib.suppress(RuntimeError):  # trio.RunFinishedError
            self._token.run_sync_soon(_close, self._raw, idempotent=True)


def _close(raw: Any) -> None:
    if raw.fileno() >= 0 and not unread_bytes(raw):  # else the stream does it, when they are read
        sys.modules["trio"].lowlevel.notify_closing(raw)
        raw.close()


def adopt_stream(  # noqa: PLR0913 - what is known of a connection
    guard: Guard, stream: object, raw: Any, terms: Terms, site: Site, *, is_server: bool
) -> object:
    """Takes the connection below a stream into the guard; on the thread of its event loop, and never raises.

    Returns:
        Its owner, which the stream has to keep alive.
    """
    loop = running_loop()
    transport = None if loop is None else _transport_of(stream, raw, loop)
    if transport is not None:
        guard.adopt_transport(transport, loop, is_server, site, terms)
        return transport
    token = _trio_token()
    owner = raw if token is None else _OnTrio(raw, token)
    guard.adopt(owner, raw, is_server, terms=terms, site=site)
    return owner


def socket_below(stream: Any, attribute: Any) -> Any:
    """Gives the socket below a stream, or what an event loop has in its place; None if there is none.

    Args:
        attribute: `anyio.abc.SocketAttribute.raw_socket`. To ask for it costs 5 us, as anyio asks the kernel for
            both addresses with it; its own streams and listeners have the socket under a private name, too.
    """
    raw = getattr(stream, "_raw_socket", None)
    if raw is not None:
        return raw
    try:
        return stream.extra(attribute, None)  # noqa: S610 - that is Django's
    except (AttributeError, ValueError):  # uvloop, of a stream that is closed
        return _closed_socket()


@functools.cache
def _closed_socket() -> socket.socket:
    with socket.socket() as sock:
        return sock


def _transport_of(stream: Any, raw: Any, loop: Any) -> Any:
    """Finds the transport below a stream of asyncio; None if it has none."""
    while stream is not None:
        transport = getattr(stream, "_transport", None)
        if transport is not None:
            return transport
        stream = next((below for name in _LAYERS if (below := getattr(stream, name, None)) is not None), None)
    return getattr(loop, "_transports", {}).get(raw.fileno())


def _trio_token() -> Any:
    trio = sys.modules.get("trio")
    with contextlib.suppress(RuntimeError):  # it does not run in this thread
        return None if trio is None else trio.lowlevel.current_trio_token()
    return None


def was_accepted(raw: Any) -> bool:
    """Tells whether a connection was accepted, for one that nobody has told of; False where it cannot be told."""
    if not KERNEL_KEEPS_BOOKS:
        return False
    with contextlib.suppress(OSError, ValueError):  # the latter by uvloop, of what is closed
        facts = read_facts(getattr(raw, "_sock", raw))  # asyncio gives a TransportSocket
        return facts is not None and opened_by_us(facts) is False
    return False


def names_of(transport: Any) -> Names | None:
    """Gives the addresses that a transport remembers of a socket that is closed; None if it is open, or none."""
    if transport is None or fd_of_transport(transport) >= 0:
        return None
    ends = (transport.get_extra_info(name) for name in ("sockname", "peername"))
    return Names(*(Address(*end[:2]).unmapped if isinstance(end, tuple) else end or None for end in ends))


def unread_bytes(raw: Any) -> int:
    """Counts the bytes that the kernel holds for us; 0 if the socket is closed, and on Windows."""
    try:
        return read_unread(raw)
    except (OSError, ValueError, ImportError):
        return 0


def is_dead(raw: Any, terms: Terms) -> bool:
    """Tells whether a connection of which a send has failed is over, and has nothing left to read either."""
    if raw.fileno() < 0:
        return False
    return is_over(raw) if terms.books is None else not unread_bytes(raw)
