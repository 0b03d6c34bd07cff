"""How does a transport end that its program has left open? Closed, and aborted when that comes to nothing.

`transport.close()` waits until all that was written has left, and TLS until the peer has answered
its farewell (30 s, in asyncio). Whether a peer that takes nothing is slow or gone, only progress
tells: so the time that is allowed is one without progress, of bytes that have left or were acknowledged.
Nor does time count in which the loop was blocked, as nothing could leave.

close() of a descriptor with unread bytes makes the kernel send a RST, and the peer may lose the
tail of the answer. Then a duplicate is kept until the transport has closed its own, and the
guard drains it (`lingering.py`).

All is done by timers of the loop, on its own thread; nothing waits.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from sockguard._core.connection import Reason
from sockguard._core.policy import Policy
from sockguard._engine.endings import Ending
from sockguard._engine.guard import Guard
from sockguard._engine.transports import fd_of_transport, socket_of
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import read_unread
from sockguard.adapters.loops.members import Member

__all__ = ["Ender"]

LOOKS = 4
"""How often it is looked within `drain_timeout` whether something has moved."""
COST = 1e-3
"""Seconds between two looks at a server's connections, for each of them: a look takes some 5 us, so half a percent."""
_now = monotonic


def _progress(transport: Any, member: Member) -> tuple[int | None, int | None, int | None]:
    """Tells how far a connection is: bytes unwritten, acknowledged, and read by us. Equal answers: nothing moved."""
    facts = member.connection.facts
    if facts is None:
        return _unwritten(transport), None, None
    return _unwritten(transport), facts.acked, facts.received - facts.unread


def _unwritten(transport: Any) -> int | None:
    try:
        return int(transport.get_write_buffer_size())
    except Exception:  # noqa: BLE001 - of a transport that has been closed meanwhile
        return None


class Ender:
    """Ends transports, for all of one event loop's that share a guard.

    Args:
        later: `loop.call_later`.
    """

    def __init__(self, guard: Guard, later: Callable[..., Any]) -> None:
        self._guard = guard
        self._call_later = later

    def _later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Has something called by the loop, to which no failure of ours must come; with the seconds it comes late."""
        due_at = _now() + seconds

        def run() -> None:
            try:
                call(*args, max(0.0, _now() - due_at))
            except Exception as error:  # noqa: BLE001 - as it says
                self._guard.failed("asyncio", error)

        self._call_later(seconds, run)

    def close(self, transport: Any, member: Member, closed: Any = None) -> None:
        """Closes a transport, and aborts it once nothing has moved for `drain_timeout`.

        asyncio has closed it already if its handler has failed, but has still to close the descriptor: so it is
        drained, too, but not told as left open. Nobody can tell any more that it was not the handler who closed it.

        Args:
            closed: A future that is done when it has closed; needed for the drain.
        """
        policy = member.connection.policy
        ending = None if transport.is_closing() else self._ending_of(transport, member, Reason.LEFT_OPEN)
        if ending and (policy.mode != "enforce" or policy.drain_timeout is None or not _unwritten(transport)):
            _tell_left_open(ending)
            ending = None  # else it is seen first what becomes of it: that bytes are lost is the louder news
        if policy.mode != "enforce":
            return
        if policy.drain_timeout is not None and closed is not None and fd_of_transport(transport) >= 0:
            self._keep_for_drain(transport, policy, closed)
        if not transport.is_closing():  # asyncio's TLS transport forgets its socket when it is closed twice
            transport.close()
        if policy.drain_timeout is not None and fd_of_transport(transport) >= 0:
            self._watch(transport, member, policy.drain_timeout, ending)

    def _ending_of(self, transport: Any, member: Member, reason: Reason) -> Ending:
        return self._guard.endings.of(socket_of(transport), member.terms, reason)

    def _abort(self, transport: Any, member: Member, reason: Reason, setting: str, since: float) -> None:
        """Aborts, and tells why: nobody else does.

        Args:
            setting: The field of the policy that decided.
            since: When anything last moved.
        """
        limit, ending = getattr(member.connection.policy, setting), self._ending_of(transport, member, reason)
        transport.abort()
        ending.tell(ending.verdict(setting, limit, _now() - since), "owner_asked")

    def _keep_for_drain(self, transport: Any, policy: Policy, closed: Any) -> None:
        with contextlib.suppress(OSError, ImportError):  # no descriptor for a duplicate; Windows: closed as ever
            sock = socket_of(transport)
            if sock is None or not (read_unread(sock) or transport.get_write_buffer_size()):
                return
            kept = sock.dup()
            closed.add_done_callback(lambda _: self._guard.linger(kept, policy))

    def _watch(self, transport: Any, member: Member, patience: float, ending: Ending | None) -> None:
        before, since = _progress(transport, member)[:2], _now()  # what its peer still sends does not keep it open

        def look(late: float) -> None:
            nonlocal before, since
            since += late
            if fd_of_transport(transport) < 0:
                if ending:
                    _tell_left_open(ending)
                return
            if (present := _progress(transport, member)[:2]) != before:
                before, since = present, _now()
            if _now() - since >= patience:
                self._abort(transport, member, Reason.CLOSE_STALLED, "drain_timeout", since)
            else:
                self._later(patience / LOOKS, look)

        self._later(patience / LOOKS, look)

    def end_leaked(self, waited_for: Callable[[], list[Member]], late: float = 0.0) -> None:
        """Aborts, as long as there are any, those of a closed server's transports that nobody ends any more.

        That is after `drain_timeout` without progress, if the handler has ended and left its writer open, and
        after `fin_timeout` if the peer has hung up while it works. Others are waited for, as asyncio does.

        Args:
            waited_for: Lists those that are open.
            late: Seconds for which the loop was blocked since the last look.
        """
        members = waited_for()
        for member in members:
            self._look_at_leaked(member, member.connection.policy, late)
        if members:
            patience = min(member.connection.policy.drain_timeout or 1.0 for member in members)
            self._later(max(patience / LOOKS, len(members) * COST), self.end_leaked, waited_for)

    def _look_at_leaked(self, member: Member, policy: Policy, late: float) -> None:
        transport = member.transport()
        if policy.drain_timeout is None or policy.mode != "enforce" or not _is_leaked(member, policy):
            member.mark = None
            return
        reason, setting = _why(member)
        patience, progress, now = getattr(policy, setting), _progress(transport, member), _now()
        since = now if member.mark is None or member.mark[0] != progress else member.mark[1] + late
        member.mark = progress, since
        if patience is not None and now - since >= patience:
            self._abort(transport, member, reason, setting, since)


def _tell_left_open(ending: Ending) -> None:
    ending.tell(ending.verdict(), "owner_asked")


def _why(member: Member) -> tuple[Reason, str]:
    """Tells why a leaked transport is to end, and by which field of the policy."""
    if member.is_abandoned:
        return Reason.CLOSE_STALLED, "drain_timeout"
    if member.connection.state == "half_closed":
        # A handler that still works, though its peer has sent its end, may have an answer to give.
        return Reason.HALF_CLOSED, "fin_timeout"
    return Reason.DEAD, "drain_timeout"


def _is_leaked(member: Member, policy: Policy) -> bool:
    if member.is_abandoned:
        return True
    state = member.connection.state
    return state == "over" or (state == "half_closed" and policy.half_close != "allow")
