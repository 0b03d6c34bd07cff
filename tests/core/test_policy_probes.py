"""Keepalive and heartbeat: their defaults, their limits, and when a silent peer is given up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.policy_probes import HEARTBEAT, KEEPALIVE, Heartbeat, Keepalive
from sockguard._core.pong_frames import PongFrames
from sockguard._core.redis_pongs import RedisPongs
from sockguard.errors import PolicyError

PROBE_SECONDS = st.integers(1, 32767)
PROBES = st.integers(1, 127)
SPAN = "give seconds above 0, at most 1000000000"
PROBE_SPAN = "give seconds, a whole number from 1 to 32767"


def complaint(make, *args, **fields):
    """Gives the text of the error that a call raises."""
    with pytest.raises(PolicyError) as caught:
        make(*args, **fields)
    return str(caught.value)


# Keepalive


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        *((field, value, PROBE_SPAN) for field in ("idle", "interval") for value in (0, -1, 32768, 1.5, True, None)),
        *(("count", value, "give probes, a whole number from 1 to 127") for value in (0, 128, "4")),
        ("user_timeout", 0, "give seconds above 0, at most 2147483; None turns it off"),
        ("user_timeout", 2147484, "give seconds above 0, at most 2147483; None turns it off"),
        ("idel", 60, "there is no such field, the nearest is idle"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_here(field, value, remedy):
    """EINVAL says nothing; the error says which field, which value, and which are possible."""
    assert complaint(Keepalive, **{field: value}) == f"keepalive.{field}={value!r} makes no sense: {remedy}"


@given(PROBE_SECONDS, PROBE_SECONDS, PROBES)
def test_detection_takes_idle_and_all_intervals(idle, interval, count):
    """A peer that answers nothing is given up when the interval after the last probe is over."""
    assert Keepalive(idle, interval, count).detection_time == idle + interval * count


def kernel_gives_up_at(idle, interval, user_timeout):
    """Goes from probe to probe as `tcp_keepalive_timer` does, with a user timeout."""
    elapsed, n_probes = idle, 0
    while not (elapsed >= user_timeout and n_probes > 0):
        elapsed, n_probes = elapsed + interval, n_probes + 1
    return elapsed


@given(st.integers(1, 1000), st.integers(1, 1000), PROBES, st.floats(0, 10000))
def test_detection_with_a_user_timeout_is_at_the_first_probe_after_it(idle, interval, count, more):
    """The count plays no part then, and the kernel looks only when a probe is due."""
    user_timeout = idle + interval + more
    keepalive = Keepalive(idle, interval, count, user_timeout)
    assert keepalive.detection_time == kernel_gives_up_at(idle, interval, user_timeout)
    assert math.ceil(user_timeout) <= keepalive.detection_time <= user_timeout + interval


@given(PROBE_SECONDS, PROBE_SECONDS, PROBES, st.floats(1, 65535))
def test_a_user_timeout_leaves_time_for_one_answer(idle, interval, count, user_timeout):
    """Less than idle + interval is refused, with the least that makes sense: one lost packet would end a connection."""
    if user_timeout >= idle + interval:
        assert Keepalive(idle, interval, count, user_timeout).user_timeout == user_timeout
    else:
        assert complaint(Keepalive, idle, interval, count, user_timeout) == (
            f"keepalive.user_timeout={user_timeout} makes no sense: it overrides count,"
            f" so give at least idle + interval, {idle + interval} s, for one probe to be answered"
        )


@pytest.mark.parametrize("text", ["60", "60,15", "60,15,4,120,1", "yes", ""])
def test_text_that_is_no_keepalive_is_left_for_the_check(text):
    """Two numbers could mean anything, so three are asked for."""
    assert KEEPALIVE.read_text(text) == text


@pytest.mark.parametrize(
    ("table", "keepalive"),
    [
        ({}, Keepalive()),
        ({"idle": 120, "user_timeout": False}, Keepalive(120)),
        ("120,15,4", Keepalive(120)),
        (True, Keepalive()),
        (False, None),
        (60, 60),
    ],
)
def test_keepalive_in_a_file(table, keepalive):
    """It is a table, a text, or just on or off; a lone number is left for the check, which refuses it."""
    assert KEEPALIVE.read_table(table) == keepalive


# Heartbeat

EXPECTATIONS = "give the bytes of the answer, or a function that knows it; None turns it off"


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("payload", b"", "give bytes, or a function that makes them"),
        ("payload", "PING", "give bytes, or a function that makes them"),
        ("payload", None, "give bytes, or a function that makes them"),
        ("every", 0, SPAN),
        ("every", None, SPAN),
        ("timeout", 0, SPAN + "; None turns it off"),
        ("timeout", None, "with expect, give the seconds that an answer may take"),
        ("expect", b"", EXPECTATIONS),
        ("expect", "PONG", EXPECTATIONS),
        ("timout", 3, "there is no such field, the nearest is timeout"),
    ],
)
def test_heartbeat_that_makes_no_sense(field, value, remedy):
    """Each field is checked by name, as those of the policy are."""
    fields = {"payload": b"PING\n", "every": 30, "timeout": 10, "expect": b"PONG\n"} | {field: value}
    assert complaint(Heartbeat, **fields) == f"heartbeat.{field}={value!r} makes no sense: {remedy}"


def test_heartbeat_takes_bytes_or_functions():
    """What is sent may differ each time, and only the application may know what an answer is."""
    heartbeat = Heartbeat(bytes, 30, 10, bool)
    assert (heartbeat.payload, heartbeat.every, heartbeat.timeout, heartbeat.expect) == (bytes, 30.0, 10.0, bool)


def test_heartbeat_that_nobody_answers_needs_no_timeout():
    """Then there is nothing that could be late."""
    heartbeat = Heartbeat(b"NOP\n", 30)
    assert (heartbeat.timeout, heartbeat.expect) == (None, None)


@pytest.mark.parametrize("missing", ["payload", "every"])
def test_heartbeat_in_a_file_lacks_nothing(missing):
    """What has no default has to be there, and is asked for as if it were None."""
    table = {"payload": "PING\n", "every": 30, "timeout": 10, "expect": "PONG\n"}
    assert HEARTBEAT.read_table(table) == Heartbeat(b"PING\n", 30, 10, b"PONG\n")
    del table[missing]
    assert complaint(HEARTBEAT.read_table, table).startswith(f"heartbeat.{missing}=None makes no sense: give ")


def test_heartbeat_that_is_no_table_is_left_for_the_check():
    """Text cannot say what a heartbeat is."""
    assert HEARTBEAT.read_table(30) == 30
    assert HEARTBEAT.read_text("PING") == "PING"


# Heartbeats that are ready


@pytest.mark.parametrize(
    ("made", "written"),
    [
        (Heartbeat.redis(), Heartbeat(b"*1\r\n$4\r\nPING\r\n", 30, 5, RedisPongs)),
        (Heartbeat.redis(every=60, timeout=20), Heartbeat(b"*1\r\n$4\r\nPING\r\n", 60, 20, RedisPongs)),
        (Heartbeat.telnet_nop(), Heartbeat(bytes([255, 241]), 60)),
        (Heartbeat.telnet_nop(every=5), Heartbeat(bytes([255, 241]), 5)),
        (Heartbeat.sse(), Heartbeat(b":\n\n", 15)),
        (Heartbeat.websocket(), Heartbeat(bytes([0x89, 0]), 20, 20, PongFrames)),
        (Heartbeat.line(b"PING"), Heartbeat(b"PING\n", 30)),
        (Heartbeat.line(b"PING", b"PONG"), Heartbeat(b"PING\n", 30, 10, b"PONG\n")),
        (
            Heartbeat.line(b"PING", answer=b"PONG", end=b"\r\n", every=5, timeout=2),
            Heartbeat(b"PING\r\n", 5, 2, b"PONG\r\n"),
        ),
    ],
)
def test_heartbeats_of_known_protocols(made, written):
    """Each is a heartbeat like any other: its bytes could have been written by hand."""
    assert made == written


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Heartbeat.redis(every=0), f"heartbeat.every=0 makes no sense: {SPAN}"),
        (lambda: Heartbeat.redis(timeout=None), "heartbeat.timeout=None makes no sense: with expect, give the seconds"),
        (lambda: Heartbeat.sse(every="15"), f"heartbeat.every='15' makes no sense: {SPAN}"),
        (lambda: Heartbeat.telnet_nop(every=-1), f"heartbeat.every=-1 makes no sense: {SPAN}"),
        (lambda: Heartbeat.line("PING"), "heartbeat.line.question='PING' makes no sense: give bytes, 1 or more"),
        (lambda: Heartbeat.line(b""), "heartbeat.line.question=b'' makes no sense: give bytes, 1 or more, without the"),
        (lambda: Heartbeat.line(b"PING\n"), "heartbeat.line.question=b'PING\\n' makes no sense: give bytes, 1 or more"),
        (lambda: Heartbeat.line(b"PING", b""), "heartbeat.line.answer=b'' makes no sense: give bytes, 1 or more"),
        (lambda: Heartbeat.line(b"PING", end=b""), "heartbeat.line.end=b'' makes no sense: give bytes, 1 or more"),
        (lambda: Heartbeat.line(b"PING", b"PONG", timeout=0), f"heartbeat.timeout=0 makes no sense: {SPAN}"),
    ],
)
def test_ready_made_heartbeat_that_makes_no_sense(make, text):
    """What is given is checked as the policy's fields are, and the error names it."""
    assert complaint(make).startswith(text)
