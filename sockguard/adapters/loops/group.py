"""The connections that one call of a program opens on its event loop: how each is taken in, and what becomes of it.

All of it runs on the loop's thread and within the program's own calls, so nothing waits, and
what goes wrong in it stays in it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from sockguard._core.policy import Policy
from sockguard._engine.guard import Guard
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms, make_terms
from sockguard._engine.transports import socket_of
from sockguard.adapters.loops.ends import Ender
from sockguard.adapters.loops.heart import LoopHeart
from sockguard.adapters.loops.members import Member, Members
from sockguard.adapters.loops.proxies import proxy_for, stamp_sends

__all__ = ["LoopGroup", "find_connection"]

BLIND_TO_SENDS: dict[str, Any] = {
    "fin_timeout": None,
    "idle_timeout": None,
    "write_stall_timeout": None,
    "min_receive_rate": None,
}
"""What is left of a policy where nobody tells what is sent: a connection that only sends would look dead."""
_members = Members()


def find_connection(thing: Any) -> GuardedConnection | None:
    """Finds the connection of a transport, a protocol or a writer."""
    member = _members.find(thing)
    return None if member is None else member.connection


class LoopGroup:
    """What the connections of one server have in common, or of one call that connects.

    Args:
        loop: The event loop, which runs in this thread.
        policy: What is wanted of them; None for what the guard wants of all.
        is_server: They are accepted.
        site: Where the program opens them.
    """

    def __init__(self, guard: Guard, loop: Any, policy: Policy | None, *, is_server: bool, site: Site) -> None:
        self.loop = loop
        self._guard = guard
        self._policy = policy
        self._is_server = is_server
        self._site = site
        self._ender = Ender(guard, loop.call_later)
        self._is_ending = False
        self._writer: Any = None
        self._simple_for: Policy | None = None
        """The policy under which connections of this call need neither own stamps nor a heartbeat."""

    def welcome(self, transport: Any, protocol: Any) -> tuple[Any, Member | None]:
        """Takes note of a transport, before its protocol is told of it.

        Returns:
            What is to be set as its protocol, and its member, None if that failed.
        """
        try:
            return self._take_in(transport, protocol)
        except Exception as error:  # noqa: BLE001 - the program's connection works as ever
            self._guard.failed("asyncio", error)
            return protocol, None

    def _take_in(self, transport: Any, protocol: Any) -> tuple[Any, Member]:
        terms = self._terms_of(transport)
        member = Member(transport, terms, self._guard, self)
        _members.add(transport, member)
        _members.add(protocol, member)
        if terms.books is not None and not stamp_sends(transport, terms.books):
            terms.policy = dataclasses.replace(terms.policy or self._guard.policy, **BLIND_TO_SENDS)
        if terms.heart is not None:
            LoopHeart(self._guard, self.loop, member, protocol).start(terms.heart)
        return proxy_for(protocol, terms.books, terms.heart), member

    def _terms_of(self, transport: Any) -> Terms:
        """Makes the terms of a connection; what sort of socket it has, is asked of the first one only."""
        usual = self._guard.policy
        if self._simple_for is (self._policy or usual):
            return Terms(self._policy)
        terms = make_terms(self._policy, socket_of(transport), usual)
        if terms.books is None and terms.heart is None:
            self._simple_for = self._policy or usual
        return terms

    def admit(self, member: Member) -> None:
        """Has the guard watch a connection.

        Done after its protocol was told: where `install()` adopts by wrapping protocols, the last word counts.
        """
        self._guard.adopt_transport(member.owner, self.loop, self._is_server, self._site, member.terms)

    def noting_writers(self, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Makes a callback for streams that calls another one, and has the writer lie ready for `take_writer`."""

        @functools.wraps(handler)
        def connected(reader: Any, writer: Any) -> Any:
            self._writer = writer
            return handler(reader, writer)

        return connected

    def take_writer(self) -> Any:
        """Gives the writer of the connection whose `connection_made` has just been called."""
        writer, self._writer = self._writer, None
        return writer

    def attend(self, protocol: Any, member: Member, writer: Any, task: Any) -> None:
        """Has the writer of a handler closed when that has ended.

        Args:
            protocol: An `asyncio.StreamReaderProtocol`; it knows the transport that the writer has by then.
            writer: Kept until then. Since Python 3.13 nobody else does: one that its handler has not closed would
                close itself by its death, before the handler's task is done, and without a drain.
            task: Of the handler.
        """
        task.add_done_callback(functools.partial(self._on_end, protocol, member, writer))

    def _on_end(self, protocol: Any, member: Member, _: Any, task: Any) -> None:
        try:
            self._close_after(protocol, member, has_failed=task.cancelled() or task.exception() is not None)
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the program's event loop
            self._guard.failed("asyncio", error)

    def _close_after(self, protocol: Any, member: Member, *, has_failed: bool) -> None:
        transport = protocol._transport  # noqa: SLF001 - None once the connection is lost; start_tls puts its own there
        if transport is None or member.terms.expected is not None:
            return
        member.is_abandoned = True
        if has_failed or not transport.is_closing():  # else the handler has closed it: it is asyncio's to finish that
            self._ender.close(transport, member, protocol._closed)  # noqa: SLF001 - what writer.wait_closed() awaits

    def let_go(self, transport: Any, member: Member, closed: Any) -> None:
        """Ends a connection to a server whose callback or `connection_made()` has raised: nobody serves it.

        One that was opened by us is left to whoever has opened it, as the event loop gives it to him all the same.

        Args:
            closed: A future that is done when it has closed; None if there is none, and so no drain.
        """
        if not self._is_server or member.terms.expected is not None:
            return
        member.is_abandoned = True
        try:
            self._ender.close(transport, member, closed)
        except Exception as error:  # noqa: BLE001 - what the program has raised is on its way to the event loop
            self._guard.failed("asyncio", error)

    def end(self) -> None:
        """Begins, when the server is closed, to abort what nobody ends."""
        if not self._is_ending:
            self._is_ending = True
            self._ender.end_leaked(lambda: _members.of_group(self))
