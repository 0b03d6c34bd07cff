"""What a program sees and says of one connection that it guards explicitly: the `connection` of every wrapper."""

import contextlib
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sockguard._core.connection import Activity, Demand
from sockguard._core.decide import Reason
from sockguard._core.event_texts import describe_end
from sockguard._core.facts import TcpState
from sockguard._core.policy import Policy
from sockguard._engine.guard import Guard
from sockguard._engine.terms import Terms
from sockguard._kernel.activity import read_activity
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.portable import read_stamps
from sockguard._kernel.tcp_info import read_tcp_info
from sockguard.errors import UsageError

__all__ = ["Deadline", "GuardedConnection"]

_OVER = (TcpState.CLOSE,)
_OPEN = (TcpState.ESTABLISHED, TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.SYN_SENT, TcpState.SYN_RECV)
_now = monotonic


class GuardedConnection:
    """One guarded connection: what is known of it, and what its program has to say.

    It may be used from any thread, and keeps nothing alive.

    Args:
        sock_of: Gives its socket; None when there is none any more.
        terms: Shared with the guard.
    """

    __slots__ = ("_guard", "_sock_of", "_terms")

    def __init__(self, sock_of: Callable[[], Any], terms: Terms, guard: Guard) -> None:
        self._sock_of, self._terms, self._guard = sock_of, terms, guard

    def __repr__(self) -> str:
        return f"<sockguard connection, {self.state}>"

    @property
    def policy(self) -> Policy:
        """What is wanted of it."""
        return self._terms.policy or self._guard.policy

    @property
    def facts(self) -> Activity | None:
        """What the kernel says of it now, or the wrapper's own stamps; None if it is closed."""
        sock = self._open_socket()
        if sock is None:
            return None
        with contextlib.suppress(OSError):  # closed meanwhile
            if self._terms.books is not None:
                return read_stamps(sock, self._terms.books, _now())
            return read_activity(sock)
        return None

    @property
    def state(self) -> str:
        """One of "open", "half_closed" (the peer sends no more), "over", and "closed" (by us)."""
        facts = self.facts
        if facts is None:
            return "closed"
        if facts.state in _OVER:
            return "over"
        return "open" if facts.state in _OPEN else "half_closed"

    @property
    def last_update(self) -> float | None:
        """The instant, on the clock of `time.monotonic()`, at which the last byte came or went; None if it is closed.

        Probes and bare acknowledgements are none (`tcpi_last_data_recv`, `tcpi_last_data_sent`); retransmissions are.
        """
        if self._terms.books is not None:
            return self._terms.books.last_update
        with contextlib.suppress(OSError):
            if (sock := self._open_socket()) is not None:
                info = read_tcp_info(sock)
                return _now() - min(info.last_data_recv, info.last_data_sent)
        return None

    @property
    def bytes_received(self) -> int | None:
        """Bytes that arrived, read or not; None if it is closed and the kernel has kept the count."""
        if self._terms.books is not None:
            return self._terms.books.received_bytes
        facts = self.facts
        if facts is None:
            return None
        return facts.received - (facts.received > 0 and facts.state == TcpState.CLOSE_WAIT)  # the FIN counts as one

    @property
    def bytes_sent(self) -> int | None:
        """Bytes that the program sent, acknowledged or not; None if it is closed and the kernel has kept the count."""
        if self._terms.books is not None:
            return self._terms.books.sent_bytes
        with contextlib.suppress(OSError):
            if (sock := self._open_socket()) is not None:
                info = read_tcp_info(sock)
                return (info.bytes_sent or 0) - (info.bytes_retrans or 0) + (info.notsent_bytes or 0)
        return None

    @property
    def rtt(self) -> float | None:
        """Seconds that the peer took to answer the last heartbeat; None before the first answer."""
        return None if self._terms.heart is None else self._terms.heart.rtt

    @property
    def ended_by(self) -> str | None:
        """Why the guard has ended it; None if it has not."""
        verdict = self._terms.verdict
        return None if verdict is None else describe_end(*verdict[1:])

    def deadline(self, seconds: float) -> "Deadline":
        """Limits the time for one request, as a context manager; bytes that move do not renew it.

        When it is over the guard ends the connection, whoever waits on it, a quarter of a
        second late at most. If the block then fails for that, it raises TimeoutError.

        Raises:
            UsageError: `seconds` is no positive number.
        """
        try:
            makes_sense = 0 < seconds < math.inf
        except TypeError:
            makes_sense = False
        if not makes_sense:
            msg = f"deadline({seconds!r}) makes no sense: give seconds, more than 0"
            raise UsageError(msg)
        return Deadline(self._terms, self._guard, seconds)

    def expect_open(self, reason: str) -> None:
        """Says that the connection is to live long: it is never ended for being idle or old, nor told as a leak.

        It is still ended when its peer has hung up and `fin_timeout` is over.

        Args:
            reason: Why, for whoever reads a report.
        """
        self._terms.expected = str(reason)

    def sending(self) -> contextlib.AbstractContextManager[object]:
        """Marks a message that is sent in several parts, as a context manager: no heartbeat goes in between."""
        return contextlib.nullcontext() if self._terms.gate is None else self._terms.gate

    def _open_socket(self) -> Any:
        sock = self._sock_of()
        with contextlib.suppress(OSError, ValueError):
            if sock is not None and fd_of(sock) >= 0:
                return sock
        return None


def _is_of_the_end(error: BaseException | None) -> bool:
    """Tells whether an error comes of the end of a connection: itself, or by its cause, as anyio's errors do."""
    causes = (error, getattr(error, "__cause__", None))
    return not isinstance(error, TimeoutError) and any(isinstance(each, OSError | EOFError) for each in causes)


class Deadline:
    """A limit on the time of one request; made by `GuardedConnection.deadline`."""

    def __init__(self, terms: Terms, guard: Guard, seconds: float) -> None:
        self._terms, self._guard, self._seconds = terms, guard, seconds
        self._demand: Demand | None = None

    @property
    def expired(self) -> bool:
        """Tells whether the guard has ended the connection for it, and not for another deadline."""
        verdict, met = self._terms.verdict, self._terms.met
        return verdict is not None and verdict.reason is Reason.DEADLINE and met is not None and met == self._demand

    def __enter__(self) -> Self:
        self._demand = Demand(Reason.DEADLINE, _now(), self._seconds)
        self._guard.demands.add(self._terms, self._demand)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._demand is not None:
            self._terms.take_back(self._demand)
        if self.expired and _is_of_the_end(error):
            msg = f"the request took longer than its deadline of {self._seconds:g} s, so sockguard ended its connection"
            raise TimeoutError(msg) from error
