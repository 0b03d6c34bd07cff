"""Which listening sockets there are, how full their queues are, and who is behind them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sockguard._core.facts import Address, Holder, Snapshot, SocketFacts, TcpState

__all__ = ["Listener", "Listeners", "listeners_held", "topmost"]

_CLOSE_WAIT, _LISTEN = TcpState.CLOSE_WAIT, TcpState.LISTEN


class Listener(NamedTuple):
    """A listening socket with its accept queue (`listen(2)`, net/ipv4/inet_diag.c)."""

    facts: SocketFacts
    queued_close_wait: int
    """Of the connections waiting, how many have been closed by their peer already; at least so
    many where several listeners share the address, as the kernel does not tell whose they are."""

    @property
    def queued(self) -> int:
        """Connections that wait to be accepted."""
        return self.facts.recv_queue

    @property
    def backlog(self) -> int | None:
        """How many may wait: the smaller of `listen()`'s argument and net.core.somaxconn.

        None where only procfs could be read, which does not tell it (nor a cookie).
        """
        return None if self.facts.cookie is None else self.facts.send_queue


class Listeners:
    """Finds the listener that a connection came through, for all sockets of a snapshot."""

    def __init__(self, sockets: Iterable[SocketFacts]) -> None:
        self._by_port: dict[tuple[int, int], list[SocketFacts]] = defaultdict(list)
        self._found: dict[tuple[int, int, Address], list[SocketFacts]] = {}
        for facts in sockets:
            if facts.state == _LISTEN:
                self._by_port[facts.netns, facts.local.port].append(facts)

    def __bool__(self) -> bool:
        return bool(self._by_port)

    def of(self, connection: SocketFacts) -> list[SocketFacts]:
        """Finds the listeners that a connection with this local address came through.

        An exact address goes before a wildcard, and a wildcard of the same family before
        one of the other, as in the kernel (net/ipv4/inet_hashtables.c, `compute_score`).
        More than one is returned where several share an address by SO_REUSEPORT: the
        kernel does not tell which of them took the connection.
        """
        place = (connection.netns, connection.interface, connection.local)
        if place not in self._found:
            self._found[place] = self._find(connection)
        return self._found[place]

    def _find(self, connection: SocketFacts) -> list[SocketFacts]:
        same_port = self._by_port.get((connection.netns, connection.local.port))
        if not same_port:
            return []
        scored = [(_score(connection, listener), listener) for listener in same_port]
        best = max(score for score, _ in scored)
        return [listener for score, listener in scored if score == best and score > 0]


def _score(connection: SocketFacts, listener: SocketFacts) -> int:
    if listener.interface not in (0, connection.interface):
        return 0
    host, bound = connection.local.unmapped.host, listener.local.unmapped.host
    if host == bound:
        return 3
    is_ipv4 = ":" not in host
    if bound == "0.0.0.0":  # noqa: S104 - compared, not bound
        return 2 if is_ipv4 else 0
    if bound == "::":
        return 1 if is_ipv4 else 2
    return 0


def topmost(holders: Iterable[Holder], parents: Mapping[int, int]) -> set[int]:
    """Finds, of several processes, those that no other one of them is an ancestor of."""
    pids = {holder.pid for holder in holders}
    return {pid for pid in pids if not pids.intersection(_ancestors(pid, parents))}


def _ancestors(pid: int, parents: Mapping[int, int]) -> Iterable[int]:
    seen = {pid}
    while (pid := parents.get(pid, 0)) and pid not in seen:
        seen.add(pid)
        yield pid


def listeners_held(snapshot: Snapshot) -> list[Listener]:
    """Lists the listeners of a snapshot, each with the dead part of its queue."""
    index = Listeners(snapshot.sockets)
    dead: Counter[SocketFacts] = Counter()
    rivals: dict[SocketFacts, list[SocketFacts]] = {}
    for facts in snapshot.sockets:
        if facts.state == _CLOSE_WAIT and facts.inode == 0:
            group = index.of(facts)
            dead.update(group)
            rivals.update((listener, group) for listener in group)
    return [
        Listener(facts, _dead_for_sure(facts, dead[facts], rivals.get(facts, [facts])))
        for facts in snapshot.sockets
        if facts.state == _LISTEN
    ]


def _dead_for_sure(listener: SocketFacts, n_dead: int, group: list[SocketFacts]) -> int:
    """Counts what the queues of those who share its address (SO_REUSEPORT) cannot hold."""
    n_elsewhere = sum(rival.recv_queue for rival in group) - listener.recv_queue
    return min(listener.recv_queue, max(0, n_dead - n_elsewhere))
