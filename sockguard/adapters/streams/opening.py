"""anyio, on asyncio and on trio: listeners and byte streams whose connections are guarded.

Nothing is counted or timed where bytes flow: the kernel is asked instead. What only a wrapper
can do is to act on the very call that met the end or an error, to close without losing the
tail of an answer, and to send heartbeats between the application's own messages. Who owns
the connections, for the guard: `adapters/streams/owners.py`.
"""

import contextlib
import functools
import socket
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.abc import SocketAttribute, TaskGroup
from anyio.streams.stapled import MultiListener

from sockguard._core.connection import Reason
from sockguard._core.policy import Policy
from sockguard._engine.current import shared_guard
from sockguard._engine.guard import Guard
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.sites import Site, capture
from sockguard._engine.terms import Terms, check_policy, make_terms
from sockguard.adapters.streams.ends import Fault, abortion, close_stream, release
from sockguard.adapters.streams.hearts import beating_stream
from sockguard.adapters.streams.layers import CountedStream, RefusingStream
from sockguard.adapters.streams.owners import adopt_stream, is_dead, names_of, socket_below, was_accepted
from sockguard.errors import UsageError

__all__ = ["GuardedAttribute", "GuardedListener", "GuardedStream", "connect_tcp", "create_tcp_listener", "guard_stream"]

_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class GuardedAttribute(anyio.TypedAttributeSet):
    """What a guarded stream tells besides the attributes of the stream that it guards."""

    connection: GuardedConnection = anyio.typed_attribute()
    """What is known of the connection, and what its program has to say of it."""


class GuardedStream(anyio.abc.SocketStream):
    """A byte stream whose connection is guarded; `guard_stream` or a listener of ours makes one.

    It does what the stream does that it guards, and raises the same errors. Besides:

    - An error that ends the connection closes it on that call; with `half_close="close"`, so does its end.
    - Once the guard has ended the connection, calls raise BrokenResourceError. Its `__cause__`
      is a ConnectionAbortedError that says why, with setting and seconds.
    - `aclose()` with unread bytes sends our FIN, then reads and drops what comes up to the
      peer's FIN, for `drain_timeout` at most. If it is cancelled, the guard does that instead.
    """

    def __init__(self, stream: anyio.abc.ByteStream, raw: Any, terms: Terms, guard: Guard, owner: Any) -> None:
        self._stream, self._raw, self._terms, self._guard, self._owner = stream, raw, terms, guard, owner
        self._policy = terms.policy or guard.policy
        self._transport = owner if hasattr(owner, "is_closing") else None
        self.is_over = False
        """Whether it is closed on our side, by whomever."""
        self._pulse = beating_stream(anyio, stream, guard, terms, raw, self._transport)
        self._io: Any = self._pulse or stream
        if terms.books is not None:
            self._io = CountedStream(anyio, self._io, terms.books)

    @functools.cached_property
    def connection(self) -> GuardedConnection:
        """What is known of the connection, and what its program has to say of it."""
        ref = weakref.ref(self)
        return GuardedConnection(lambda: getattr(ref(), "_raw", None), self._terms, self._guard)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the guarded stream, and `GuardedAttribute.connection`."""
        return {**self._stream.extra_attributes, GuardedAttribute.connection: lambda: self.connection}

    @property
    def _raw_socket(self) -> Any:
        return self._raw

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receives bytes, as `anyio.abc.ByteStream.receive` does."""
        try:
            return await self._io.receive(max_bytes)  # type: ignore[no-any-return]
        except _ENDS as error:
            await self._after(error)
            raise

    async def send(self, item: bytes) -> None:
        """Sends bytes, as `anyio.abc.ByteStream.send` does."""
        try:
            await self._io.send(item)
        except _ENDS as error:
            await self._after(error, is_sending=True)
            raise
        if self._terms.verdict is not None:
            await self._raise_if_ended()  # asyncio drops what is written to a transport that was aborted, and is silent

    async def send_eof(self) -> None:
        """Says that nothing more will be sent, as `anyio.abc.ByteStream.send_eof` does."""
        if not self.is_over:
            await self._raise_if_ended()
        await self._io.send_eof()

    async def aclose(self) -> None:
        """Closes the stream: within `drain_timeout`, and at once if nothing is unread or it is cancelled."""
        self._note_end(Fault(anyio.ClosedResourceError))
        await close_stream(anyio, self._stream, self._raw, self._guard, self._policy)

    async def _after(self, error: Exception, *, is_sending: bool = False) -> None:
        """Closes what is over; raises if it was the guard that ended it."""
        if self.is_over:
            return  # it was known, or we have closed it meanwhile
        is_eof, verdict = isinstance(error, anyio.EndOfStream), self._terms.verdict
        if is_eof and verdict is not None and verdict.reason is Reason.HALF_CLOSED:
            await self._give_up(Fault.of(error))
            return  # the peer has ended it, and now everything is read
        await self._raise_if_ended(is_certain=not is_eof)
        is_over = self._policy.half_close == "close" if is_eof else not is_sending or is_dead(self._raw, self._terms)
        if not is_over:
            return
        ending = None
        if isinstance(error, anyio.BrokenResourceError):
            ending = self._guard.endings.of(self._raw, self._terms, Reason.FAILED, names=names_of(self._transport))
        if self._policy.mode != "observe":
            await self._give_up(Fault.of(error))
        if ending is not None:
            cause = error.__cause__ or error
            ending.tell(ending.verdict(), "closed", error=f"{type(cause).__name__}: {cause}")

    async def _raise_if_ended(self, *, is_certain: bool = False) -> None:
        """Raises if the guard has ended the connection.

        Args:
            is_certain: The stream has failed. If not, a transport that was asked to abort may be spared yet.
        """
        verdict = self._terms.verdict
        if verdict is None or not (is_certain or self._transport is None or self._transport.is_closing()):
            return
        fault = abortion(anyio, self.connection.ended_by or "")
        await self._give_up(fault)
        fault.happen()

    async def _give_up(self, fault: Fault) -> None:
        """Closes the stream at once."""
        self._note_end(fault)
        await release(anyio, self._stream)

    def _note_end(self, fault: Fault) -> None:
        self.is_over, self._io = True, RefusingStream(anyio, fault)
        if self._pulse is not None:
            self._pulse.closed.set()

    async def end_with_handler(self, *, has_returned: bool) -> None:
        """Closes what the handler has left open, and tells of that; in `observe`, only tells.

        Args:
            has_returned: It has not failed, so what it said by `expect_open()` stands: somebody else has the stream.
        """
        if self.is_over or (has_returned and self._terms.expected is not None):
            return
        ending = self._guard.endings.of(self._raw, self._terms, Reason.LEFT_OPEN)
        try:
            if self._policy.mode != "observe":
                await self.aclose()
        finally:
            ending.tell(ending.verdict(), "closed")

    def start_beating(self, tasks: TaskGroup) -> None:
        """Sends heartbeats from a task of its own, also while nobody receives; until the stream is closed."""
        if self._pulse is not None:
            self._pulse.has_task = True
            tasks.start_soon(self._pulse.beat_until_closed)

    @property
    def unguarded(self) -> anyio.abc.ByteStream:
        """The stream that is guarded."""
        return self._stream


def guard_stream(stream: anyio.abc.ByteStream, policy: Policy | None = None) -> GuardedStream:
    """Guards the connection below a byte stream, of either back end; call it in the event loop that the stream is of.

    Use the guarded stream only, from then on. Guard a TLSStream rather than the stream
    below it if the policy has a heartbeat, which has to be sent through TLS.

    Args:
        stream: A stream with a socket below it: SocketStream, UNIXSocketStream, TLSStream and what is built on them.
        policy: What is wanted of this connection; None for what the guard of this process wants of all.

    Raises:
        UsageError: There is no socket below the stream, or the policy is none.
    """
    check_policy(policy)
    if isinstance(stream, GuardedStream):
        stream = stream.unguarded
    raw = _socket_of(stream)
    if raw is None:
        msg = f"guard_stream({stream!r}) has no socket to guard: give a byte stream that has SocketAttribute.raw_socket"
        raise UsageError(msg)
    return _guarded(stream, shared_guard(), policy, capture(2), is_server=was_accepted(raw))


def _socket_of(thing: Any) -> Any:
    """Gives the socket below a stream or listener of anyio, or what asyncio has in its place; None if there is none."""
    if not isinstance(thing, anyio.TypedAttributeProvider):
        return None
    return socket_below(thing, SocketAttribute.raw_socket)


def _guarded(
    stream: anyio.abc.ByteStream, guard: Guard, policy: Policy | None, site: Site, *, is_server: bool
) -> GuardedStream:
    raw = _socket_of(stream)
    terms = make_terms(policy, getattr(raw, "_sock", raw), guard.policy)  # asyncio's stand-in is slow to ask
    return GuardedStream(stream, raw, terms, guard, adopt_stream(guard, stream, raw, terms, site, is_server=is_server))


class GuardedListener(anyio.abc.SocketListener):
    """A listener that guards what it accepts; `create_tcp_listener` makes it."""

    def __init__(self, listener: anyio.abc.SocketListener, guard: Guard, policy: Policy | None, site: Site) -> None:
        self._listener, self._guard, self._policy, self._site = listener, guard, policy, site

    @property
    def _raw_socket(self) -> Any:
        return _socket_of(self._listener)

    async def accept(self) -> GuardedStream:
        """Accepts a connection; whoever calls this has to close it."""
        return _guarded(await self._listener.accept(), self._guard, self._policy, capture(), is_server=True)

    async def serve(self, handler: Callable[[GuardedStream], Any], task_group: TaskGroup | None = None) -> None:
        """Accepts connections for ever, with a task for each; when its handler returns or raises, it is closed."""

        @functools.wraps(handler)
        async def handle(stream: GuardedStream) -> None:
            has_returned = False
            try:
                await handler(stream)
                has_returned = True
            finally:
                await stream.end_with_handler(has_returned=has_returned)

        async with contextlib.AsyncExitStack() as stack:
            tasks = task_group
            if tasks is None:
                tasks = await stack.enter_async_context(anyio.create_task_group())
            while True:
                accepted = await self._listener.accept()
                stream = _guarded(accepted, self._guard, self._policy, self._site, is_server=True)
                stream.start_beating(tasks)
                tasks.start_soon(handle, stream)

    async def aclose(self) -> None:
        """Closes the listener; what it has accepted stays open."""
        await self._listener.aclose()


async def create_tcp_listener(  # noqa: PLR0913 - as anyio's, and one more
    *,
    local_host: anyio.abc.IPAddressType | None = None,
    local_port: int = 0,
    family: Any = socket.AF_UNSPEC,
    backlog: int = 65536,
    reuse_port: bool = False,
    policy: Policy | None = None,
) -> MultiListener[GuardedStream]:
    """Listens as `anyio.create_tcp_listener` does, and guards what is accepted.

    Raises:
        UsageError: The policy is none.
        OSError: As anyio's.
    """
    check_policy(policy)
    site, guard = capture(2), shared_guard()
    multi = await anyio.create_tcp_listener(
        local_host=local_host, local_port=local_port, family=family, backlog=backlog, reuse_port=reuse_port
    )
    guarded: list[Any] = [GuardedListener(one, guard, policy, site) for one in multi.listeners]  # type: ignore[arg-type]
    return MultiListener(guarded)


async def connect_tcp(
    remote_host: anyio.abc.IPAddressType, remote_port: int, *, policy: Policy | None = None, **options: Any
) -> GuardedStream:
    """Connects as `anyio.connect_tcp` does, with its options, and guards the stream that this gives.

    Raises:
        UsageError: The policy is none.
        OSError: As anyio's.
    """
    check_policy(policy)
    site, guard = capture(2), shared_guard()
    stream: anyio.abc.ByteStream = await anyio.connect_tcp(remote_host, remote_port, **options)
    return _guarded(stream, guard, policy, site, is_server=False)
