"""`sockguard states`: connections counted by state, by listener and by peer, and who closed first."""

import socket

import pytest

from children import start_child
from commands import AS_NOBODY, needs_root, run
from netstat import CLOSE_WAIT, FIN_WAIT2, wait_for
from servers import teach
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

SERVE = """
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
served = []
"""


@pytest.fixture
def server():
    with start_child() as child:
        teach(child, SERVE)
        yield child


def connect(server) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(server.ask("port"))))
    server.do("served.append(listener.accept()[0])")
    return client


def census(*words: object) -> dict:
    outcome = run("states", "--json", *words)
    assert outcome.status == 0
    return outcome.json


def test_counts_by_state(server):
    """Each connection of the process is counted under its state, the listener too."""
    port = int(server.ask("port"))
    with connect(server), connect(server), connect(server) as half_closed, connect(server) as other:
        half_closed.shutdown(socket.SHUT_WR)
        server.do("served[3].shutdown(socket.SHUT_WR)")
        wait_for(port, state=CLOSE_WAIT)
        wait_for(port, state=FIN_WAIT2)
        found = census("--pid", server.pid)
        assert other.recv(1) == b""
    expected = {"LISTEN": 1, "ESTABLISHED": 2, "CLOSE_WAIT": 1, "FIN_WAIT2": 1}
    assert found["states"] == expected
    assert found["closed_first"] == {"we": 1, "peer": 1}
    assert found["orphans"] == {}
    assert (found["schema"], found["at"][-1]) == (1, "Z")


def test_counts_by_listener_and_peer(server):
    """Connections are grouped by the listener that they came through, and by the host at their other end."""
    port = int(server.ask("port"))
    with connect(server), connect(server):
        found = census("--pid", server.pid)
    assert found["listeners"] == [{"local": f"127.0.0.1:{port}", "states": {"ESTABLISHED": 2}}]
    assert found["peers"] == [{"remote": "127.0.0.1", "states": {"ESTABLISHED": 2}}]


def test_what_we_opened_is_counted_by_host_and_port(server):
    """A client's connections are told apart by the port that they go to."""
    with start_child() as client:
        port = int(server.ask("port"))
        client.do(f"pool = [socket.create_connection(('127.0.0.1', {port})) for _ in range(3)]")
        found = census("--pid", client.pid)
    assert found["states"] == {"ESTABLISHED": 3}
    assert found["listeners"] == []
    assert found["peers"] == [{"remote": f"127.0.0.1:{port}", "states": {"ESTABLISHED": 3}}]


def test_waiting_connections_count_for_their_listener(server):
    """What waits to be accepted belongs to the process that listens, though no descriptor leads there."""
    port = int(server.ask("port"))
    with socket.create_connection(("127.0.0.1", port)):
        socket.create_connection(("127.0.0.1", port)).close()
        wait_for(port, state=CLOSE_WAIT)
        found = census("--pid", server.pid)
    assert found["states"] == {"LISTEN": 1, "ESTABLISHED": 1, "CLOSE_WAIT": 1}


def test_mapped_peers_are_counted_as_ipv4():
    """An IPv4 client of a dual-stack listener is the same host as everywhere else."""
    with start_child() as child:
        child.do("listener = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)")
        with socket.create_connection(("127.0.0.1", int(child.ask("listener.getsockname()[1]")))):
            child.do("server, _ = listener.accept()")
            found = census("--pid", child.pid)
    assert [peer["remote"] for peer in found["peers"]] == ["127.0.0.1"]


def test_only_one_state(server):
    """--state counts that state alone, in any spelling, and may be given again."""
    with connect(server) as client, connect(server):
        client.shutdown(socket.SHUT_WR)
        wait_for(int(server.ask("port")), state=CLOSE_WAIT)
        assert census("--pid", server.pid, "--state", "close-wait")["states"] == {"CLOSE_WAIT": 1}
        both = census("--pid", server.pid, "--state", "ESTAB", "--state", "listening")["states"]
    assert both == {"ESTABLISHED": 1, "LISTEN": 1}


def test_whole_host_knows_orphans(server):
    """Over all processes, what the kernel still finishes for closed descriptors is counted as held by nobody."""
    port = int(server.ask("port"))
    connect(server).close()
    client_port = int(server.ask("served[0].getpeername()[1]"))
    wait_for(client_port, state=FIN_WAIT2, inode=False)
    found = census()
    assert found["orphans"]["FIN_WAIT2"] >= 1
    assert found["states"]["CLOSE_WAIT"] >= 1
    assert f"127.0.0.1:{port}" in [listener["local"] for listener in found["listeners"]]


def test_several_processes(server):
    """--pid may be given again; the counts add up."""
    with connect(server), start_child() as client:
        client.do(f"c = socket.create_connection(('127.0.0.1', {server.ask('port')}))")
        server.do("served.append(listener.accept()[0])")
        found = census("--pid", server.pid, "-p", client.pid)
    assert found["states"] == {"LISTEN": 1, "ESTABLISHED": 3}


def test_dead_descriptors_are_counted(server):
    """A reset connection with its descriptor still open is counted as CLOSE."""
    client = connect(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
    client.close()
    eventually(lambda: server.ask("served[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]") == "7")
    assert census("--pid", server.pid)["states"] == {"LISTEN": 1, "CLOSE": 1}


def test_text(server):
    """The text has a table of states with their meaning, who closed first, and both groupings."""
    with connect(server) as client, connect(server):
        client.shutdown(socket.SHUT_WR)
        wait_for(int(server.ask("port")), state=CLOSE_WAIT)
        outcome = run("states", "--pid", server.pid)
    assert (outcome.status, outcome.err) == (0, "")
    lines = {tuple(line.split()[:2]) for line in outcome.out.splitlines() if line}
    assert {("1", "CLOSE_WAIT"), ("1", "ESTABLISHED"), ("1", "LISTEN")} <= lines
    assert "the peer closed first; we have not closed" in outcome.out
    assert "closed first: we 0, the peer 1" in outcome.out
    assert f"127.0.0.1:{server.ask('port')}" in outcome.out


def test_text_of_many_peers_is_cut():
    """Of more than ten peers the text shows the ten largest and counts the rest; JSON has all."""
    with start_child() as child:
        teach(
            child,
            """
            listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(13)]
            clients = [socket.create_connection(l.getsockname()) for l in listeners]
            more = socket.create_connection(listeners[7].getsockname())
            """,
        )
        busiest = int(child.ask("listeners[7].getsockname()[1]"))
        text = run("states", "--pid", child.pid).out
        found = census("--pid", child.pid)
    clients = [peer for peer in found["peers"] if ":" in peer["remote"]]
    assert len(clients) == 13
    assert "... and" in text
    peers = text.partition("PEER")[2].splitlines()[1:]
    assert [f"127.0.0.1:{busiest}" in line for line in peers[:2]].count(True) == 1


def test_process_without_connections():
    """A process that has no TCP sockets has none to count; that is no error."""
    with start_child() as child:
        outcome = run("states", "--pid", child.pid)
        assert census("--pid", child.pid)["states"] == {}
    assert (outcome.status, outcome.err) == (0, "")


def test_state_that_nobody_is_in(server):
    """A state without connections is counted as none, in text too."""
    outcome = run("states", "--pid", server.pid, "--state", "SYN_SENT")
    assert (outcome.status, outcome.err) == (0, "")
    assert "SYN_SENT" not in outcome.out


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_longer_than_the_screen(server, columns):
    """At every width the tables fit."""
    with connect(server) as client:
        client.shutdown(socket.SHUT_WR)
        wait_for(int(server.ask("port")), state=CLOSE_WAIT)
        text = run("states", "--pid", server.pid, COLUMNS=str(columns)).out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= columns


@needs_root
def test_without_rights(server):
    """The host's connections can be counted by anybody; of another user's process it is said that they cannot."""
    whole = run("states", "--json", prefix=AS_NOBODY)
    assert whole.status == 0
    assert whole.json["states"]["LISTEN"] >= 1
    one = run("states", "--pid", server.pid, prefix=AS_NOBODY)
    assert (one.status, one.out, one.err.count("\n")) == (2, "", 1)
    assert f"process {server.pid}" in one.err
