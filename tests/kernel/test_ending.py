"""Ending somebody's connection: the one that was judged, nothing of it lost, and never another one."""

import contextlib
import errno
import os
import select
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from children import Child, start_child
from commands import needs_root
from loopback import listen, reset, state_of
from netstat import CLOSE_WAIT, LISTEN, rows, wait_for
from sockguard._core.facts import Holder, SocketFacts, TcpInfo
from sockguard._kernel import ending
from sockguard._kernel.ending import NotTheSame, StillAlive, destroy_unaccepted, shut_down
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.netns import open_diag_in
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.proc_pid import read_netns, read_stat
from waiting import eventually

CLOSE = 7
BECOME_NOBODY = "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)"


class Leaking(NamedTuple):
    """A child that holds a connection in CLOSE_WAIT as `sock`, and what was judged."""

    child: Child
    peer: socket.socket
    """Our end: it has sent its FIN, and still hears."""
    facts: SocketFacts
    holder: Holder

    @property
    def state(self) -> int:
        return int(self.child.ask("sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]"))

    def judge_again(self) -> SocketFacts:
        (facts,) = close_waits(self.facts.local.port)
        return facts

    def judge_at_rest(self) -> SocketFacts:
        """Looks when the kernel has sent what the peer's window takes."""

        def two_alike() -> SocketFacts | None:
            before = self.judge_again()
            time.sleep(0.05)
            after = self.judge_again()
            assert before.info and after.info
            return after if before.info.bytes_sent == after.info.bytes_sent else None

        return eventually(two_alike)


def close_waits(port: int, netns: int = 0) -> list[SocketFacts]:
    with open_diag() as diag:
        found = read_sockets(diag, [CLOSE_WAIT], netns=netns, with_info=True)
    return [facts for facts in found if facts.local.port == port]


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    return request.param


@contextlib.contextmanager
def leaking(family: socket.AddressFamily = socket.AF_INET, sent: bytes = b"") -> Iterator[Leaking]:
    """Starts a child that connects to us and does not close when we hang up."""
    with listen(family) as listener, start_child() as child:
        child.do(f"sock = socket.create_connection({listener.getsockname()[:2]!r})")
        with listener.accept()[0] as peer:
            peer.settimeout(10)
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            (facts,) = eventually(lambda: close_waits(peer.getpeername()[1]))
            yield Leaking(child, peer, facts, Holder(child.pid, int(child.ask("sock.fileno()")), "python3"))


@pytest.fixture
def leak() -> Iterator[Leaking]:
    with leaking() as made:
        yield made


def assert_untouched(leak: Leaking) -> None:
    """The connection still stands in CLOSE_WAIT, and its peer has not heard of any end."""
    assert leak.state == CLOSE_WAIT
    assert select.select([leak.peer], [], [], 0)[0] == []


# shut_down


def test_connection_ends_for_both_sides(family: socket.AddressFamily) -> None:
    """The peer sees EOF at once, and in the owner the connection is over."""
    with leaking(family) as leak:
        shut_down(leak.facts, leak.holder, started=read_stat(leak.child.pid).started)
        assert leak.peer.recv(1) == b""
        eventually(lambda: leak.state == CLOSE)


def test_what_was_not_read_stays_readable() -> None:
    """The owner reads all that the peer sent, and then EOF: no byte is lost."""
    with leaking(sent=b"hello") as leak:
        shut_down(leak.facts, leak.holder, started=None)
        assert leak.peer.recv(1) == b""
        assert [leak.child.ask("sock.recv(99)") for _ in range(2)] == ["b'hello'", "b''"]


def test_what_was_not_sent_yet_is_sent_first() -> None:
    """The FIN goes behind what the owner has written: the peer gets it all."""
    with leaking() as leak:
        leak.child.do("sock.setblocking(False); n_sent = sock.send(bytes(1 << 22))")

        def is_ended() -> bool:
            queued = leak.judge_at_rest()
            assert queued.send_queue > 0
            with contextlib.suppress(StillAlive):  # the peer has answered a probe of its window since
                shut_down(queued, leak.holder, started=None)
                return True
            return False

        eventually(is_ended)
        received = 0
        while data := leak.peer.recv(1 << 20):
            received += len(data)
        assert received == int(leak.child.ask("n_sent"))


@pytest.mark.usefixtures("no_garbage")
def test_descriptor_stays_open_in_its_owner(leak: Leaking) -> None:
    """It is the same socket behind the same number, still blocking, and nothing stays open here."""
    before = os.listdir("/proc/self/fd")
    shut_down(leak.facts, leak.holder, started=None)
    assert os.listdir("/proc/self/fd") == before
    assert leak.child.ask("os.fstat(sock.fileno()).st_ino") == str(leak.facts.inode)
    assert leak.child.ask("os.get_blocking(sock.fileno())") == "True"
    leak.child.do("sock.close()")


def test_own_connection_can_be_ended_too() -> None:
    """In this very process no rights and no pidfd are needed."""
    with listen() as listener, socket.create_connection(listener.getsockname()) as ours, listener.accept()[0] as peer:
        peer.shutdown(socket.SHUT_WR)
        (facts,) = eventually(lambda: close_waits(ours.getsockname()[1]))
        shut_down(facts, Holder(os.getpid(), ours.fileno(), "pytest"), started=None)
        assert peer.recv(1) == b""


def test_another_cookie_is_another_connection(leak: Leaking) -> None:
    """All else is alike, but it is not the one that was judged."""
    for cookie in (leak.facts.cookie + 1, None):  # type: ignore[operator]
        with pytest.raises(NotTheSame, match="another connection"):
            shut_down(leak.facts._replace(cookie=cookie), leak.holder, started=None)
    assert_untouched(leak)


def test_number_that_was_given_to_another_connection_is_not_hit(leak: Leaking) -> None:
    """The owner closed it and has another connection in CLOSE_WAIT there: that one stands as it stood."""
    with listen() as listener:
        leak.child.do(f"other = socket.create_connection({listener.getsockname()!r})")
        with listener.accept()[0] as peer:
            leak.child.do("os.dup2(other.fileno(), sock.fileno())")
            peer.shutdown(socket.SHUT_WR)
            eventually(lambda: leak.state == CLOSE_WAIT)
            with pytest.raises(NotTheSame, match="another connection"):
                shut_down(leak.facts, leak.holder, started=None)
            assert_untouched(leak._replace(peer=peer))


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("sock.close()", id="nothing"),
        pytest.param("os.dup2(0, sock.fileno())", id="a pipe"),
        pytest.param("os.dup2(os.open(os.devnull, os.O_RDONLY), sock.fileno())", id="a file"),
        pytest.param("os.dup2(os.open(os.devnull, os.O_PATH), sock.fileno())", id="a mere path"),
    ],
)
def test_descriptor_that_was_closed_meanwhile_is_not_the_same(leak: Leaking, statement: str) -> None:
    """The number is nothing now, or no socket: said as such, with the number."""
    leak.child.do(statement)
    with pytest.raises(NotTheSame, match=f"descriptor {leak.holder.fd} was closed meanwhile") as caught:
        shut_down(leak.facts, leak.holder, started=None)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_socket_of_another_kind_is_not_the_same(leak: Leaking, kind: str) -> None:
    """A Unix socket behind the number is known by its cookie, before it is asked for TCP_INFO."""
    leak.child.do(f"one, two = socket.socketpair(type=socket.{kind}); os.dup2(one.fileno(), sock.fileno())")
    with pytest.raises(NotTheSame, match="another connection"):
        shut_down(leak.facts, leak.holder, started=None)
    leak.child.do("one.send(b'x'); assert two.recv(1) == b'x'")


def test_connection_that_the_owner_ended_meanwhile_is_not_the_same(leak: Leaking) -> None:
    """It is no longer in CLOSE_WAIT; the state that it is in is named."""
    leak.child.do("sock.shutdown(socket.SHUT_WR)")
    eventually(lambda: leak.state == CLOSE)
    with pytest.raises(NotTheSame, match="it is in CLOSE by now"):
        shut_down(leak.facts, leak.holder, started=None)


def test_connection_that_the_peer_reset_meanwhile_is_not_the_same(leak: Leaking) -> None:
    """It is dead, and only its descriptor is left, which cannot be helped from outside."""
    reset(leak.peer)
    eventually(lambda: leak.state == CLOSE)
    with pytest.raises(NotTheSame, match="it is in CLOSE by now"):
        shut_down(leak.facts, leak.holder, started=None)


def test_state_that_only_a_newer_kernel_knows_is_named_by_its_number(
    leak: Leaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown state is not CLOSE_WAIT, and no error of ours."""
    monkeypatch.setattr(ending, "read_tcp_info", lambda _: leak.facts.info._replace(state=14))
    with pytest.raises(NotTheSame, match="it is in 14 by now"):
        shut_down(leak.facts, leak.holder, started=None)
    assert_untouched(leak)


def test_program_that_sent_meanwhile_is_alive(leak: Leaking) -> None:
    """The owner answered since the look: a half-closed connection at work."""
    leak.child.do("sock.sendall(b'answer')")
    assert leak.peer.recv(99) == b"answer"
    with pytest.raises(StillAlive, match="sent data"):
        shut_down(leak.facts, leak.holder, started=None)
    assert_untouched(leak)


@pytest.mark.parametrize("n_bytes", [1, 5])
def test_program_that_read_meanwhile_is_alive(n_bytes: int) -> None:
    """A slow consumer that took a part of its queue, or all of it, works and will answer."""
    with leaking(sent=b"hello") as leak:
        leak.child.do(f"sock.recv({n_bytes})")
        with pytest.raises(StillAlive, match="read from it"):
            shut_down(leak.facts, leak.holder, started=None)
        assert_untouched(leak)


def test_peer_that_acknowledged_data_meanwhile_is_alive(leak: Leaking) -> None:
    """What was under way at the look has arrived by now, though nothing more was sent."""
    leak.child.do("sock.sendall(b'answer')")
    assert leak.peer.recv(99) == b"answer"
    now = eventually(lambda: (facts := leak.judge_again()).info.bytes_acked != leak.facts.info.bytes_acked and facts)
    judged = now._replace(info=now.info._replace(bytes_acked=leak.facts.info.bytes_acked))
    with pytest.raises(StillAlive, match="acknowledged data"):
        shut_down(judged, leak.holder, started=None)
    assert_untouched(leak)


def test_peer_that_was_heard_of_meanwhile_is_alive(leak: Leaking) -> None:
    """Its silence, shorter than when it was judged, began anew; one that grew did not."""
    info = leak.facts.info
    longer = leak.facts._replace(info=info._replace(last_ack_recv=info.last_ack_recv + 3600))
    with pytest.raises(StillAlive, match="heard of"):
        shut_down(longer, leak.holder, started=None)
    assert_untouched(leak)


@pytest.mark.slow
def test_answer_to_a_keepalive_probe_is_a_sign_of_life(leak: Leaking) -> None:
    """The peer's kernel still answers, so the peer still holds its half: it is left alone."""
    judged = eventually(lambda: (facts := leak.judge_again()).info.last_ack_recv > 2.5 and facts)
    leak.child.do("sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)")
    leak.child.do("sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)")
    eventually(lambda: leak.judge_again().info.last_ack_recv < 1.5)  # and from now on: it is probed every second
    with pytest.raises(StillAlive, match="heard of"):
        shut_down(judged, leak.holder, started=None)
    assert_untouched(leak)


def test_connection_that_nothing_was_known_of_is_not_ended(leak: Leaking) -> None:
    """Without TCP_INFO from the look it cannot be said that it stood still."""
    with pytest.raises(StillAlive):
        shut_down(leak.facts._replace(info=None), leak.holder, started=None)
    assert_untouched(leak)


@pytest.mark.parametrize("later", [0.0, 0.004])
def test_same_or_longer_silence_is_standstill(leak: Leaking, monkeypatch: pytest.MonkeyPatch, later: float) -> None:
    """Also on a kernel before 4.2, which counts no acknowledged bytes: none then and none now is no change."""
    old: TcpInfo = leak.facts.info._replace(bytes_acked=None)
    now = old._replace(last_ack_recv=old.last_ack_recv + later)
    monkeypatch.setattr(ending, "read_tcp_info", lambda _: now)
    shut_down(leak.facts._replace(info=old), leak.holder, started=None)
    assert leak.peer.recv(1) == b""


def test_process_that_was_replaced_is_refused(leak: Leaking) -> None:
    """Another process with the owner's pid: not touched, as the start time differs."""
    started = read_stat(leak.child.pid).started
    with pytest.raises(ProcessLookupError, match="replaced"):
        shut_down(leak.facts, leak.holder, started=started - 1)
    assert_untouched(leak)


def test_process_that_is_gone_is_an_error_of_the_kernels_own(leak: Leaking) -> None:
    """No such process; it is not taken for a closed descriptor."""
    leak.child.end()
    with pytest.raises(ProcessLookupError):
        shut_down(leak.facts, leak.holder, started=None)


OUTCOME = """
try:
    act()
    outcome = "done"
except Exception as error:
    outcome = type(error).__name__
"""


def tried_by_nobody(act: str, facts: SocketFacts, holder: Holder) -> str:
    """Runs a call of this room as a user without any right; gives the name of the error."""
    with start_child() as other:
        other.do(f"sys.path[:] = {sys.path!r}")
        other.do("import ctypes; from sockguard._core.facts import *; from sockguard._kernel.ending import *")
        other.do(f"facts, holder = {facts!r}, {holder!r}")
        other.do(BECOME_NOBODY)
        other.do("ctypes.CDLL(None).prctl(4, 1)")  # PR_SET_DUMPABLE, as after an exec
        other.do(f"act = lambda: {act}")
        other.do(f"exec({OUTCOME!r})")
        return other.ask("outcome")


@needs_root
@pytest.mark.slow
def test_who_may_not_borrow_may_not_end(leak: Leaking) -> None:
    """Another user's process is out of reach: PermissionError, and nothing happens."""
    assert tried_by_nobody("shut_down(facts, holder, started=None)", leak.facts, leak.holder) == "PermissionError"
    assert_untouched(leak)


# destroy_unaccepted


class Queued(NamedTuple):
    """A CLOSE_WAIT connection that waits to be accepted, its client, and its listener, which is ours."""

    listener: socket.socket
    client: socket.socket
    facts: SocketFacts

    @property
    def holder(self) -> Holder:
        return Holder(os.getpid(), self.listener.fileno(), "pytest")


@pytest.fixture
def queued(family: socket.AddressFamily) -> Iterator[Queued]:
    with listen(family) as listener, socket.create_connection(listener.getsockname()[:2]) as client:
        client.settimeout(10)
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        port = listener.getsockname()[1]
        (facts,) = eventually(lambda: close_waits(port, read_netns()))
        yield Queued(listener, client, facts)


def try_to_destroy(facts: SocketFacts, holder: Holder) -> None:
    """Destroys it, or skips the test where the kernel was built without that."""
    try:
        destroy_unaccepted(facts, holder)
    except OSError as error:
        pytest.skip(f"SOCK_DESTROY needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY: {error}")


def assert_still_waiting(queued: Queued) -> None:
    """It can be accepted and works: what was sent is there, and what is answered arrives."""
    server, _ = queued.listener.accept()
    with server:
        assert read_cookie(server) == queued.facts.cookie
        assert server.recv(99) == b"hello"
        server.sendall(b"alive")
        assert queued.client.recv(99) == b"alive"


@needs_root
@pytest.mark.parametrize("netns", ["known", "not known"])
@pytest.mark.usefixtures("no_garbage")
def test_what_nobody_accepts_is_reset(queued: Queued, netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sees a reset; the place in the queue is only freed by accept(), which yields a dead connection."""
    monkeypatch.setattr(ending, "open_diag_in", None)  # at home nothing has to be entered
    facts = queued.facts if netns == "known" else queued.facts._replace(netns=0)
    assert facts.inode == 0
    before = os.listdir("/proc/self/fd")
    try_to_destroy(facts, queued.holder)
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ConnectionResetError):
        queued.client.recv(1)
    port = queued.listener.getsockname()[1]
    assert [row.recv_queue for row in rows(port) if row.state == LISTEN] == [1]
    with queued.listener.accept()[0] as server:
        assert state_of(server) == CLOSE


@needs_root
def test_what_is_destroyed_already_is_not_the_same(queued: Queued) -> None:
    """A second time there is nothing to hit."""
    try_to_destroy(queued.facts, queued.holder)
    with pytest.raises(NotTheSame, match="accepted or ended"):
        destroy_unaccepted(queued.facts, queued.holder)


def test_other_cookie_hits_nothing(queued: Queued) -> None:
    """At the same addresses, but not what was judged, or not known whether: it lives on."""
    for cookie in (queued.facts.cookie + 1, queued.facts.cookie ^ 1 << 40, None):  # type: ignore[operator]
        with pytest.raises(NotTheSame, match="accepted or ended"):
            destroy_unaccepted(queued.facts._replace(cookie=cookie), queued.holder)
    assert_still_waiting(queued)


def test_what_was_accepted_meanwhile_is_left_alone(queued: Queued) -> None:
    """Somebody has it now: not touched, and it goes on."""
    with queued.listener.accept()[0] as server:
        with pytest.raises(NotTheSame, match="accepted or ended"):
            destroy_unaccepted(queued.facts, queued.holder)
        assert server.recv(99) == b"hello"
        server.sendall(b"alive")
        assert queued.client.recv(99) == b"alive"


def test_queue_that_was_closed_meanwhile_is_not_the_same(queued: Queued) -> None:
    """With its listener all that waited has ended."""
    queued.listener.close()
    with pytest.raises(NotTheSame, match="accepted or ended"):
        destroy_unaccepted(queued.facts, Holder(os.getpid(), 0, "pytest"))


@needs_root
@pytest.mark.slow
def test_who_may_not_destroy_changes_nothing(queued: Queued) -> None:
    """Without CAP_NET_ADMIN the kernel refuses, and the connection waits on."""
    assert tried_by_nobody("destroy_unaccepted(facts, holder)", queued.facts, queued.holder) == "PermissionError"
    assert_still_waiting(queued)


QUEUE_IN_CHILD = """
import fcntl, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:  # SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(s, 0x8914, struct.pack("16sH22x", b"lo", 1))
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
client.settimeout(10)
client.shutdown(socket.SHUT_WR)
"""


@needs_root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare here: another namespace was not tested")
def test_connection_in_another_network_namespace_is_reset_there() -> None:
    """The listener's process leads to its namespace; the same addresses here are not looked at."""
    with start_child(["unshare", "--net"]) as child:
        child.do(f"exec({QUEUE_IN_CHILD!r})")
        port, netns = int(child.ask("listener.getsockname()[1]")), read_netns(child.pid)
        assert netns != read_netns()
        wait_for(port, pid=child.pid, state=CLOSE_WAIT)
        with open_diag_in(child.pid) as diag:
            (facts,) = read_sockets(diag, [CLOSE_WAIT], netns=netns)
        holder = Holder(child.pid, int(child.ask("listener.fileno()")), "python3")
        try_to_destroy(facts, holder)
        assert wait_for(port, pid=child.pid, count=0, state=CLOSE_WAIT) == []
        assert child.ask("client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)") == str(errno.ECONNRESET)
