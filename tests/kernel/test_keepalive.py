"""Keepalive on real sockets: it is turned on where nobody has, and nothing that was set is changed."""

import ctypes
import errno
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopback import connect, listen, vanished_peer
from sockguard._core.policy import Keepalive
from sockguard._kernel import keepalive as door
from sockguard._kernel.keepalive import KeepaliveOptions, apply_keepalive, read_keepalive
from sockguard._kernel.pidfd import borrow_socket

OPTIONS = {
    "idle": socket.TCP_KEEPIDLE,
    "interval": socket.TCP_KEEPINTVL,
    "probes": socket.TCP_KEEPCNT,
    "user_timeout": socket.TCP_USER_TIMEOUT,
}
OURS = Keepalive(idle=61, interval=16, count=5)


@pytest.fixture
def sock():
    """A fresh TCP socket."""
    with socket.socket() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def defaults():
    """What this host gives to a socket on which nothing was set."""
    with socket.socket() as fresh:
        return read_keepalive(fresh)


def set_option(sock, name, value):
    sock.setsockopt(socket.IPPROTO_TCP, OPTIONS[name], value)


class Counting:
    """A socket that writes down which calls to the kernel are made."""

    def __init__(self, sock):
        self.sock, self.family, self.calls = sock, sock.family, []

    def getsockopt(self, *args):
        self.calls.append("get")
        return self.sock.getsockopt(*args)

    def setsockopt(self, *args):
        self.calls.append(("set", *args[:2]))
        return self.sock.setsockopt(*args)


# Reading


def test_a_fresh_socket_has_the_hosts_settings(sock):
    """Keepalive is off, and what was never set reads as the sysctl."""
    sysctls = ["tcp_keepalive_time", "tcp_keepalive_intvl", "tcp_keepalive_probes"]
    expected = [int(Path(f"/proc/sys/net/ipv4/{name}").read_text()) for name in sysctls]
    assert read_keepalive(sock) == KeepaliveOptions(False, *expected, None)


def test_what_was_set_is_read(sock):
    """Whoever set it; the user timeout comes in seconds."""
    for name, value in {"idle": 10, "interval": 5, "probes": 2, "user_timeout": 1500}.items():
        set_option(sock, name, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert read_keepalive(sock) == KeepaliveOptions(True, 10, 5, 2, 1.5)


@pytest.mark.parametrize("idle", [0, 32768, -1])
def test_kernel_refuses_what_the_policy_refuses(sock, idle):
    """The limits of the policy are those of this kernel; beyond them is EINVAL."""
    for name, value in {"idle": idle, "interval": idle, "probes": min(idle, 128), "user_timeout": -1}.items():
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            set_option(sock, name, value)


@given(
    st.builds(Keepalive, st.integers(1, 32767), st.integers(1, 32767), st.integers(1, 127))
    | st.builds(Keepalive, st.integers(1, 32767), st.integers(1, 32767), user_timeout=st.floats(65534, 2147483))
)
def test_kernel_takes_what_the_policy_takes(keepalive):
    """Whatever passes the policy arrives as it is; only the user timeout is rounded, up to the next millisecond."""
    with socket.socket() as sock:
        assert apply_keepalive(sock, keepalive)
        options = read_keepalive(sock)
    assert options[:4] == (True, keepalive.idle, keepalive.interval, keepalive.count)
    if keepalive.user_timeout is None:
        assert options.user_timeout is None
    else:
        assert 0 <= round(options.user_timeout - keepalive.user_timeout, 9) <= 0.001


# Applying


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_keepalive_is_turned_on(family):
    """On a connection that knows of none, all of the policy's settings are in force afterwards."""
    with connect(family) as connection:
        assert apply_keepalive(connection.server, OURS)
        assert read_keepalive(connection.server) == KeepaliveOptions(True, 61, 16, 5, None)


def test_keepalive_is_turned_on_last(sock):
    """The timer starts with SO_KEEPALIVE, so the rest is set by then; nine calls in all, ten with a user timeout."""
    apply_keepalive(sock, OURS)  # the host's defaults are read once
    for keepalive, n_calls in [(OURS, 9), (Keepalive(user_timeout=100), 10)]:
        with socket.socket() as fresh:
            counting = Counting(fresh)
            assert apply_keepalive(counting, keepalive)
            assert counting.calls[:5] == ["get"] * 5
            assert counting.calls[-1] == ("set", socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert len(counting.calls) == n_calls


def test_what_the_application_turned_on_is_left_alone(sock, defaults):
    """One call finds out; not a single setting changes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    counting = Counting(sock)
    assert not apply_keepalive(counting, OURS)
    assert counting.calls == ["get"]
    assert read_keepalive(sock) == defaults._replace(is_on=True)


@pytest.mark.parametrize(
    ("name", "value"), [("idle", 20), ("interval", 7), ("probes", 3), ("idle", 32767), ("user_timeout", 500_000)]
)
def test_what_the_application_set_stays(sock, name, value):
    """An option that differs from the host's default is the application's; the others become the policy's."""
    set_option(sock, name, value)
    assert apply_keepalive(sock, OURS)
    expected = KeepaliveOptions(True, 61, 16, 5, None)
    assert read_keepalive(sock) == expected._replace(**{name: value / 1000 if name == "user_timeout" else value})


@pytest.mark.parametrize(
    ("name", "value", "keepalive"),
    [
        ("user_timeout", 5000, OURS),
        ("user_timeout", 76_999, OURS),
        ("idle", 600, Keepalive(user_timeout=100)),
    ],
)
def test_no_connection_comes_to_depend_on_a_single_probe(sock, name, value, keepalive):
    """Where a user timeout below idle + interval would result, of whoever's parts, the socket stays as it is."""
    set_option(sock, name, value)
    before = read_keepalive(sock)
    assert not apply_keepalive(sock, keepalive)
    assert read_keepalive(sock) == before


def test_a_user_timeout_of_just_enough_is_taken(sock):
    """The border of the test above: idle + interval of the policy, in milliseconds."""
    set_option(sock, "user_timeout", 77_000)
    assert apply_keepalive(sock, OURS)


def test_accepted_sockets_inherit_from_their_listener():
    """What the application set on the listener counts as set on each connection, from the handshake on."""
    with listen() as listener:
        set_option(listener, "idle", 33)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as server:
            assert not apply_keepalive(server, OURS)
            assert read_keepalive(server)[:2] == (True, 33)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_DGRAM)],
)
def test_what_is_not_tcp_is_left_alone(family, kind):
    """The kernel would take SO_KEEPALIVE on these, to no effect."""
    with socket.socket(family, kind) as sock:
        assert not apply_keepalive(sock, OURS)
        assert read_keepalive(sock) is None
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_a_borrowed_socket_will_do():
    """The guard acts on a duplicate, of which it knows no more than the number; it is told from UDP all the same."""
    with connect() as connection, borrow_socket(os.getpid(), connection.server.fileno()) as borrowed:
        assert apply_keepalive(borrowed, OURS)
        assert read_keepalive(connection.server) == KeepaliveOptions(True, 61, 16, 5, None)
    with socket.socket(type=socket.SOCK_DGRAM) as udp, borrow_socket(os.getpid(), udp.fileno()) as borrowed:
        assert not apply_keepalive(borrowed, OURS)
        assert read_keepalive(borrowed) is None


def test_a_half_closed_connection_will_do():
    """CLOSE_WAIT is where it matters most."""
    with vanished_peer() as connection:
        assert apply_keepalive(connection.server, OURS)


def test_a_closed_socket_is_an_error(sock):
    """It is no other protocol, and the caller must know that nothing was done."""
    sock.close()
    for act in (read_keepalive, lambda closed: apply_keepalive(closed, OURS)):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            act(sock)


def test_an_error_while_reading_the_options_is_passed_on(sock):
    """Only what other protocols answer means "not TCP"; a sandbox that forbids the call is not mistaken for that."""

    class Forbidden(Counting):
        def getsockopt(self, level, name):
            if level == socket.IPPROTO_TCP:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            return super().getsockopt(level, name)

    with pytest.raises(PermissionError):
        apply_keepalive(Forbidden(sock), OURS)


def test_a_changed_sysctl_is_no_setting_of_the_application(sock, monkeypatch):
    """The host's defaults are remembered, and read anew before a difference is taken for the application's wish."""
    stale = [(600, 60, 8, 0)]

    def remembered():
        return stale[0] if stale else tuple(sock.getsockopt(socket.IPPROTO_TCP, name) for name in OPTIONS.values())

    remembered.cache_clear = stale.clear
    monkeypatch.setattr(door, "_read_defaults", remembered)
    assert apply_keepalive(sock, OURS)
    assert read_keepalive(sock) == KeepaliveOptions(True, 61, 16, 5, None)


def test_without_a_descriptor_to_ask_with_nothing_is_set(sock, defaults):
    """When a process is short of descriptors the guard is needed most: no error, and no guess either."""
    door._read_defaults.cache_clear()  # noqa: SLF001 - remembered from earlier tests
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert not apply_keepalive(sock, OURS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_keepalive(sock) == defaults
    assert apply_keepalive(sock, OURS)


def test_a_system_that_lacks_the_options_gets_what_it_has():
    """Where socket has no name for them, as on other systems, the module imports and SO_KEEPALIVE alone is set."""
    script = """
import socket
wanted = socket.TCP_KEEPIDLE
for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
    delattr(socket, name)
socket.TCP_KEEPALIVE = wanted  # the name that macOS has
from sockguard._core.policy import Keepalive
from sockguard._kernel.keepalive import apply_keepalive, read_keepalive
sock = socket.socket()
print(apply_keepalive(sock, Keepalive(61, 16, 5, 100)), *read_keepalive(sock))
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True 61 0 0 None\n", "")


# What it is for


def deafen(sock):
    """Lets a socket receive nothing any more, so that it answers no probe: a filter that drops every packet (BPF)."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
    program = struct.pack("HxxxxxxP", 1, ctypes.addressof(drop_all))
    sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_ATTACH_FILTER", 26), program)


WANTED = [Keepalive(1, 1, 3), Keepalive(1, 1, 127, user_timeout=2.5), Keepalive(1, 1, 127, user_timeout=2)]


@pytest.mark.slow
def test_a_silent_peer_is_given_up_when_the_policy_says_so():
    """The derived detection time is the kernel's: by the count, and by a user timeout, which overrides the count."""
    off = []
    for _ in range(4):  # who measures may get the processor late himself; a wrong rule is wrong each time
        off.append({k: s for k, s in measure(WANTED).items() if not -0.5 <= s - k.detection_time <= 0.9})
        if not off[-1]:
            return
    pytest.fail(f"given up at other times: {off}")


def measure(wanted):
    """Tells after how many seconds the kernel gives up a peer that answers nothing, by each of these settings."""
    measured = {}
    with connect() as one, connect() as two, connect() as three:
        ends = {}
        for connection, keepalive in zip((one, two, three), wanted, strict=True):
            deafen(connection.client)
            began_at = time.monotonic()
            assert apply_keepalive(connection.server, keepalive)
            ends[connection.server.fileno()] = keepalive, began_at
        poll = select.poll()
        for fd in ends:
            poll.register(fd, 0)
        while len(measured) < len(wanted):
            ready = poll.poll(20_000)
            assert ready, f"not given up after 20 s; the others: {measured}"
            for fd, _ in ready:
                poll.unregister(fd)
                keepalive, began_at = ends[fd]
                measured[keepalive] = time.monotonic() - began_at
    # The timer runs from the last packet, which came before `began_at`, and ticks in jiffies.
    return measured
