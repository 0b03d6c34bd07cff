"""What happens at each tick? Take in what is new, look at what is sick or due, and watch the host.

The work is proportional to what is new, sick or due; what is merely there is not touched.

It takes five descriptors to watch, with the control socket, and they are not taken before
there is a connection: most processes of a machine never have one, and some of them care
which descriptors they have (of CPython's own tests, test_subprocess lists those of a child).
"""

import sys
from collections.abc import Callable
from functools import partial

from sockguard._core.connection import Connection
from sockguard._core.decide import next_at
from sockguard._core.fd_table import FdTable
from sockguard._core.policy import Policy
from sockguard._core.timers import Wheel
from sockguard._engine.admission import correct_side, is_established
from sockguard._engine.announcer import Announcer
from sockguard._engine.clauses import ClausesBook
from sockguard._engine.enforcement import Enforcer
from sockguard._engine.established import EstablishedScan
from sockguard._engine.ghosts import Ghosts
from sockguard._engine.pressure import DescriptorWatch, QueueWatch
from sockguard._engine.probes import keep_alive
from sockguard._engine.record import Record
from sockguard._engine.registry import Registry, welcome
from sockguard._engine.stalls import StallWatch
from sockguard._engine.strangers import Strangers
from sockguard._engine.terms import Demands
from sockguard._engine.turns import Turns
from sockguard._kernel.borrow import Borrower, Gone
from sockguard._kernel.natives import native
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.own_fds import NO_DESCRIPTOR
from sockguard._kernel.peer_close import PeerCloseWatch

__all__ = ["Sweep"]

WATCH_EVERY = 1.0
"""Seconds between two looks at descriptors and event loops."""
AGAIN_AFTER = 5.0
"""Seconds between two looks at a leak that was reported, as nobody tells that it is closed if its object
lives on; and after a look that failed."""


class Sweep:
    """All that the guard does in its own time.

    Args:
        policy: For all connections that have none of their own.
        demands: Of which connections the program demands an end, if not taken back by then.
    """

    def __init__(
        self, policy: Policy, registry: Registry, stalls: StallWatch, announcer: Announcer, demands: Demands
    ) -> None:
        self._policy = policy
        self._clauses = ClausesBook(policy)
        self._demands = demands
        self._registry = registry
        self._announcer = announcer
        self._now = 0.0
        self.is_open = False
        """Something is watched, or was, and the descriptors for that are taken."""
        self._opening = native("_thread", "allocate_lock")()
        self._borrower: Borrower
        self._peers: PeerCloseWatch
        self._enforcer: Enforcer
        self._wheel: Wheel[int] = Wheel(table=FdTable())
        self._to_look: Turns[int] = Turns()
        """Descriptors of which something was heard, or whose time has come; told once, so they are kept until done."""
        self._strangers = Strangers(registry)
        self._established = EstablishedScan(registry, policy)
        self._ghosts = Ghosts(registry, policy, announcer.ghost_leak, announcer.ghost_end)
        self._queues = QueueWatch(policy.leak_after)
        self._stalls = stalls
        sheds_always = policy.shed_dead_on_accept == "always" and policy.mode == "enforce"
        self.descriptors = DescriptorWatch(sheds_always=sheds_always)
        self._watched_at = -WATCH_EVERY
        self._is_queue_full = False

    def parts(self, now: float, most: int = sys.maxsize) -> list[Callable[[], object]]:
        """Gives what is due at this tick, to be called in that order; one that fails need not end the tick.

        Args:
            most: How many connections it may admit, and how many it may look at. The first part tells whether
                there are more.
        """
        self._now = now
        self._announcer.begin(now)
        parts: list[Callable[[], object]] = [partial(self._watch, most), self._find_strangers]
        if most == sys.maxsize or self._clauses.usual.first_look_after is not None:
            # In a thread of the program's not for keepalive alone.
            parts.append(lambda: self._welcome(self._established.scan_if_due(now)))
        if now - self._watched_at >= WATCH_EVERY:
            self._watched_at = now
            parts += [self._watch_host, lambda: self._announcer.stalled(self._stalls.check(now))]
        return parts

    def _watch(self, most: int) -> bool:
        is_behind = False
        if self._registry.opened or self._registry.by_fd:
            self.open()
        if self.is_open:
            if not self._peers.is_intact:
                self.start_anew()
            is_behind = self._take_stock(most)
            for due in (self._demands.pop_due(self._now), self._peers.drain(), self._wheel.pop_due(self._now)):
                self._to_look.add(due)
            self._look_at_those_due(most)
        return is_behind or len(self._to_look) > 0

    def _look_at_those_due(self, most: int) -> None:
        """Looks at them one by one; should one fail, the others and it will be looked at again."""
        for fd in self._to_look.take(most):
            if (found := self._registry.by_fd.get(fd)) is None or found.cookie is None:
                continue  # gone; or not admitted yet, as its turn has not come, or it is still connecting
            try:
                self._look(found)
            except Exception:
                self._wheel.schedule(fd, self._now + AGAIN_AFTER)
                raise

    def _take_stock(self, most: int) -> bool:
        """Admits what is new, and takes note of what is gone; tells whether it is to be called again for the rest."""
        n_admitted = 0
        for record in self._registry.take_new(self._now):
            n_admitted += self._admit(record)
            if n_admitted >= most:
                break
        for record in self._registry.take_displaced():
            self._on_close(record)
        self._to_look.add(record.fd for record in self._registry.take_died())
        return n_admitted >= most

    def open(self) -> None:
        """Takes the descriptors, if that is not done; from any thread, and without waiting.

        Raises:
            OSError: There are none left; the next tick tries again.
        """
        if self.is_open or not self._opening.acquire(False):
            return
        try:
            if not self.is_open:
                self._borrower, self._peers = Borrower(), PeerCloseWatch()
                self._enforcer = Enforcer(self._policy, self._borrower, self._announcer.step)
                self.is_open = True
        finally:
            self._opening.release()

    def start_anew(self) -> None:
        """Builds the watch anew and admits all connections to it: after a fork, or if the program closed it."""
        self._opening = native("_thread", "allocate_lock")()  # a thread that is not in the child may have held it
        if not self.is_open:
            return
        self._peers.close()
        self._peers = PeerCloseWatch()
        self._wheel = Wheel(table=FdTable())
        for record in self._registry.records():
            self._registry.postpone(record)

    def close(self) -> None:
        """Gives the descriptors back."""
        if self.is_open:
            self.is_open = False
            self._peers.close()
            self._borrower.close()

    def _admit(self, record: Record) -> bool:
        """Begins to watch a connection that outlived its first tick; tells whether it did."""
        clauses = self._clauses.of(record)
        try:
            with self._borrower.borrow(record.fd, record.cookie) as sock:
                if not is_established(sock):
                    self._registry.postpone(record)
                    return False
                record.cookie = record.cookie or read_cookie(sock)
                if not record.has_object:
                    correct_side(record, sock)
                keep_alive(sock, clauses.policy)
        except (Gone, OSError) as error:
            if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR:
                self._registry.postpone(record)  # nothing is known of it
            else:
                self._registry.forget(record)
            return False
        self._peers.add(record.fd)
        if clauses.first_look_after is not None:
            self._wheel.schedule(record.fd, record.opened_at + clauses.first_look_after)
        return True

    def _look(self, record: Record) -> None:
        clauses = self._clauses.of(record)
        policy = clauses.hurried if self.descriptors.is_pressing(self._now) else clauses.policy
        was_hung_up = record.is_hung_up
        try:
            connection = self._enforcer.look(record, self._now, policy)
        except Gone:
            self._on_close(record)
            return
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                self._wheel.schedule(record.fd, self._now)  # no descriptor to look with: at the next tick, then
            else:
                self._registry.forget(record)  # no TCP connection after all
            return
        if connection.is_hung_up:
            self._report(record, connection, is_new=not was_hung_up)
        retract_at = None if record.reported is None else self._now + AGAIN_AFTER
        instants = (next_at(connection, policy, self._now), _leak_at(record, connection, self._policy), retract_at)
        if (soonest := min((at for at in instants if at is not None), default=None)) is not None:
            self._wheel.schedule(record.fd, soonest)

    def _on_close(self, record: Record) -> None:
        """Takes note that a connection is closed, by whomever."""
        if self._registry.by_fd.get(record.fd) is record:
            self._wheel.cancel(record.fd)
        self._registry.forget(record)
        self._announcer.cleared(record, "ended_by_guard" if record.verdict else "closed")

    def _report(self, record: Record, connection: Connection, *, is_new: bool) -> None:
        if is_new:
            self._announcer.peer_closed(record)
        leak_at = _leak_at(record, connection, self._policy)
        if leak_at is not None and leak_at <= self._now:
            self._announcer.leak(record)
        elif not connection.is_quiet:
            self._announcer.cleared(record, "moved")

    def _find_strangers(self) -> None:
        findings = self._strangers.scan_if_due(self._now)
        if findings is None:
            return
        for record in findings.closed:
            self._on_close(record)
        self._welcome(findings.strangers)
        self._ghosts.look(findings.ghosts, self._now)
        self._is_queue_full = any(s.recv_queue >= s.send_queue > 0 for s in findings.listeners)
        for stuck in self._queues.check(self._now, findings.listeners):
            self._announcer.stuck(stuck, self.descriptors)

    def _welcome(self, strangers: list[Record]) -> None:
        if strangers:
            self.open()
        if not self.is_open:
            return  # they will be found again
        for record in strangers:
            if (old := self._registry.by_fd.get(record.fd)) is not None:
                self._on_close(old)
            welcome(self._registry, record)
            if self._admit(record):
                self._look(record)

    def _watch_host(self) -> None:
        is_newly_near = self.descriptors.check()
        is_pressing = self.descriptors.is_pressing(self._now)
        if self._policy.shed_dead_on_accept == "pressure" and self._policy.mode == "enforce":
            self.descriptors.sheds_dead = is_pressing or self._is_queue_full
        if is_pressing:
            hung_up = [record for record in self._registry.records() if record.is_hung_up]
            if is_newly_near:
                self._announcer.limit_near(self.descriptors, len(hung_up))
            for record in hung_up:
                self._look(record)


def _leak_at(record: Record, connection: Connection, usual: Policy) -> float | None:
    """Tells when a connection that stands still is to be reported; one that is being ended was told of."""
    policy = record.policy_or(usual)
    is_told = record.reported is not None or (record.verdict is not None and policy.mode == "enforce")
    if is_told or connection.is_expected or policy.leak_after is None or connection.stands_since is None:
        return None
    return connection.stands_since + policy.leak_after
