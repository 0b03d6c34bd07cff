"""Random populations of sockets: what sockguard lists is what `ss -Htanpe` lists, row by row.

ss is another program, by other people, in another language. Both look at the same moving
target, so ss looks before and after, and only what did not change in between is compared.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections import defaultdict
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from children import Child, start_child
from sockguard._kernel.inet_diag import ALL_STATES
from sockguard._kernel.linux import look_at_processes
from sockguard._kernel.proc_net import read_net_tcp
from waiting import eventually

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("ss"), reason="no ss here: the tables were not compared with another program"),
]

STATES = {
    "LISTEN": 10,
    "ESTAB": 1,
    "SYN-SENT": 2,
    "SYN-RECV": 3,
    "FIN-WAIT-1": 4,
    "FIN-WAIT-2": 5,
    "TIME-WAIT": 6,
    "UNCONN": 7,
    "CLOSE-WAIT": 8,
    "LAST-ACK": 9,
    "CLOSING": 11,
}
LISTEN = 10
CLOSE = 7


class Row(NamedTuple):
    """What both sides must agree on."""

    state: int
    local: str
    remote: str
    recv_queue: int
    send_queue: int
    inode: int
    cookie: int | None
    uid: int
    owners: frozenset[tuple[int, int]]

    def touches(self, ports: set[int]) -> bool:
        return any(int(end.rpartition(":")[2]) in ports for end in (self.local, self.remote))


# The two looks


def ask_ss(ports: set[int]) -> set[Row]:
    text = subprocess.run(["ss", "-Htanpe"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {row for row in map(_parse, text.splitlines()) if row.touches(ports)}


def _parse(line: str) -> Row:
    state, receive, send, local, remote, details = [*line.split(None, 5), ""][:6]
    numbers = dict(re.findall(r"\b(ino|uid|sk):([0-9a-f]+)", details))
    return Row(
        state=STATES[state],
        local=_address(local),
        remote=_address(remote),
        recv_queue=int(receive),
        send_queue=int(send),
        inode=int(numbers.get("ino", 0)),
        cookie=int(numbers["sk"], 16),
        uid=int(numbers.get("uid", 0)),
        owners=frozenset((int(pid), int(fd)) for pid, fd in re.findall(r"pid=(\d+),fd=(\d+)", details)),
    )


def _address(text: str) -> str:
    """Writes an address of ss as sockguard does: `*` is `::` of a dual-stack listener, no port is port 0."""
    host, _, port = text.rpartition(":")
    host = "[::]" if host == "*" else re.sub(r"%\w+", "", host)
    return f"{host}:{0 if port == '*' else port}"


def ask_sockguard(ports: set[int]) -> set[Row]:
    snapshot = look_at_processes(states=ALL_STATES)
    owners = defaultdict(set)
    for process in snapshot.processes.values():
        for inode, fds in process.sockets.items():
            owners[inode].update((process.pid, fd) for fd in fds)
    for inode, holders in snapshot.holders.items():
        assert {(holder.pid, holder.fd) for holder in holders} == owners[inode]
    rows = {
        Row(
            facts.state,
            str(facts.local),
            str(facts.remote),
            facts.recv_queue,
            facts.send_queue,
            facts.inode,
            facts.cookie,
            facts.uid,
            frozenset(owners[facts.inode] if facts.inode else ()),
        )
        for facts in snapshot.sockets
        if facts.state != CLOSE and facts.netns == os.stat("/proc/self/ns/net").st_ino  # those are in no table
    }
    return {row for row in rows if row.touches(ports)}


# The populations


class Plan(NamedTuple):
    """How one connection is brought about, and what becomes of it."""

    family: str
    """v4, v6 or mapped: IPv4 through a dual-stack listener."""
    is_accepted: bool
    to_server: int
    """Bytes that nobody reads."""
    to_client: int
    hangs_up: str
    """Who closes, or half-closes, or none."""
    copies: int
    """How many more descriptors of this process hold the server's end."""
    is_forked: bool
    """Another process holds it, too."""


PLANS = st.builds(
    Plan,
    family=st.sampled_from(["v4", "v6", "mapped"]),
    is_accepted=st.booleans(),
    to_server=st.sampled_from([0, 1, 100, 5000]),
    to_client=st.sampled_from([0, 1, 100, 5000]),
    hangs_up=st.sampled_from(["nobody", "client", "client half", "server half", "both half", "server"]),
    copies=st.integers(0, 2),
    is_forked=st.booleans(),
)
LISTENERS = {
    "v4": (("127.0.0.1", 0), socket.AF_INET, False, "127.0.0.1"),
    "v6": (("::1", 0), socket.AF_INET6, False, "::1"),
    "mapped": (("::", 0), socket.AF_INET6, True, "127.0.0.1"),
}


def populate(plans: list[Plan], keep: contextlib.ExitStack) -> tuple[set[int], list[socket.socket]]:
    """Makes the connections; gives the ports of their listeners, and what another process shall hold too."""
    ports, to_share = set(), []
    for family, (address, number, dual, host) in LISTENERS.items():
        # Those to be accepted come first: an accept queue is emptied from its front.
        chosen = sorted((plan for plan in plans if plan.family == family), key=lambda plan: not plan.is_accepted)
        listener = keep.enter_context(
            socket.create_server(address, family=number, dualstack_ipv6=dual, backlog=len(chosen) + 1)
        )
        ports.add(listener.getsockname()[1])
        clients = [keep.enter_context(socket.create_connection((host, listener.getsockname()[1]))) for _ in chosen]
        for plan, client in zip(chosen, clients, strict=True):
            client.sendall(bytes(plan.to_server))
            if plan.is_accepted:
                server = keep.enter_context(listener.accept()[0])
                server.sendall(bytes(plan.to_client))
                for _ in range(plan.copies):
                    keep.enter_context(server.dup())
                if plan.is_forked:
                    to_share.append(server.dup())
                    keep.enter_context(to_share[-1])
                hang_up(plan.hangs_up, client, server)
            else:
                hang_up(plan.hangs_up, client, None)
    return ports, to_share


def hang_up(who: str, client: socket.socket, server: socket.socket | None) -> None:
    if who == "client":
        client.close()
    if who in ("client half", "both half"):
        client.shutdown(socket.SHUT_WR)
    if server and who in ("server half", "both half"):
        with contextlib.suppress(OSError):  # the client's reset was faster
            server.shutdown(socket.SHUT_WR)
    if server and who == "server":
        server.close()


@contextlib.contextmanager
def population(plans: list[Plan]):
    with contextlib.ExitStack() as keep:
        ports, to_share = populate(plans, keep)
        child: Child = keep.enter_context(start_child(pass_fds=[sock.fileno() for sock in to_share]))
        yield ports, child


def agree(ports: set[int]) -> tuple[set[Row], set[Row]]:
    """Gives what ss and sockguard say of a moment in which, by ss, nothing changed."""

    def quiet_moment() -> tuple[set[Row], set[Row]] | None:
        before = ask_ss(ports)
        found = ask_sockguard(ports)
        return (before, found) if before == ask_ss(ports) else None

    return eventually(quiet_moment, timeout=120)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plans=st.lists(PLANS, min_size=5, max_size=40))
@pytest.mark.timeout(900)
def test_lists_what_ss_lists(plans):
    """State, addresses, queues, inode, cookie, user and every owner's descriptor are those of ss."""
    with population(plans) as (ports, _):
        expected, found = agree(ports)
        assert found == expected
        assert len([row for row in found if row.state == LISTEN]) == len(LISTENERS)


def test_populations_are_not_trivial():
    """The plans reach the states, queues and shared owners that the comparison is about."""
    plans = [
        Plan(family, is_accepted, 100, 100, who, copies=1, is_forked=True)
        for family in LISTENERS
        for is_accepted in (True, False)
        for who in ("nobody", "client half", "server half", "client")
    ]
    with population(plans) as (ports, child):
        eventually(lambda: not any(row.state == STATES["FIN-WAIT-1"] for row in ask_ss(ports)))  # a late ACK
        expected, found = agree(ports)
        assert found == expected
        by_state = defaultdict(list)
        for row in found:
            by_state[row.state].append(row)
        assert {LISTEN, STATES["ESTAB"], STATES["CLOSE-WAIT"], STATES["FIN-WAIT-2"]} <= set(by_state)
        assert any(row.inode == 0 and row.recv_queue == 101 for row in by_state[STATES["CLOSE-WAIT"]])
        assert {row.recv_queue for row in by_state[LISTEN]} == {4}
        assert any(len(row.owners) == 4 and len({pid for pid, _ in row.owners}) == 2 for row in found)
        assert any(child.pid in {pid for pid, _ in row.owners} for row in found)
        for prefix in ("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:"):
            assert any(row.local.startswith(prefix) for row in found)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plans=st.lists(PLANS, min_size=5, max_size=40))
@pytest.mark.timeout(900)
def test_text_table_lists_the_same(plans):
    """/proc/net/tcp, for sandboxes without netlink, gives the same rows, less cookies and listeners' backlogs."""
    with population(plans) as (ports, _):

        def moment() -> tuple[set[tuple], set[tuple]] | None:
            before = ask_ss(ports)
            rows = read_net_tcp()
            return (before, rows) if before == ask_ss(ports) else None

        expected, facts = eventually(moment, timeout=120)
        found = {
            (f.state, str(f.local), str(f.remote), f.recv_queue, 0 if f.state == LISTEN else f.send_queue, f.inode)
            for f in facts
            if f.local.port in ports or f.remote.port in ports
        }
        assert found == {
            (r.state, r.local, r.remote, r.recv_queue, 0 if r.state == LISTEN else r.send_queue, r.inode)
            for r in expected
        }
