"""Pongs in what a WebSocket peer sends: found by the heads of frames, wherever TCP cuts, and nowhere else."""

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.heartbeat import BeatState, Heart
from sockguard._core.policy_probes import Heartbeat
from sockguard._core.pong_frames import MAX_HEAD, PongFrames, ping
from sockguard.errors import PolicyError

REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade:WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
PLAIN = b"POST /login HTTP/1.1\r\nHost: server.example.com\r\nContent-Length: 7\r\n\r\na=b\r\n\r\n"
REFUSAL = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"
CLOSE, PONG = 0x88, 0x8A
EMPTY_PONG = bytes([PONG, 0])


def frame(first: int, payload: bytes = b"", *, mask: bytes = b"") -> bytes:
    """Writes a frame as RFC 6455, 5.2, draws it; the payload is not masked, as nothing here looks at it."""
    flag, size = 0x80 * bool(mask), len(payload)
    if size < 126:
        head = bytes([first, flag | size])
    elif size < 65536:
        head = bytes([first, flag | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, flag | 127]) + size.to_bytes(8, "big")
    return head + mask + payload


def count(stream: bytes, places: list[int] = (), *, n_owed: int = 10**9) -> tuple[int, PongFrames]:
    """Feeds a stream, cut at these places, and counts the pongs; each byte must be handed on at once."""
    frames, n_pongs = PongFrames(), 0
    ends = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    for a, b in itertools.pairwise(ends):
        rest, n = frames.take(stream[a:b], n_owed)
        assert rest == stream[a:b]
        n_pongs += n
    return n_pongs, frames


DATA_FIRST = st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0xC1, 0xC2, 0x41])
"""Whole messages and fragments, compressed ones too (the first reserved bit)."""
PAYLOADS = st.one_of(
    st.binary(max_size=140),
    st.integers(120, 140).map(bytes),
    st.sampled_from([EMPTY_PONG * 40, EMPTY_PONG * 200, REQUEST, bytes(65535), bytes(65536), EMPTY_PONG * 35000]),
)
MASKS = st.just(b"") | st.binary(min_size=4, max_size=4) | st.just(EMPTY_PONG * 2)
DATA_FRAMES = st.builds(frame, DATA_FIRST, PAYLOADS, mask=MASKS)
PINGS = st.builds(frame, st.just(0x89), st.binary(max_size=125), mask=MASKS)
PONGS = st.builds(frame, st.just(PONG), st.binary(max_size=125) | st.just(EMPTY_PONG * 60), mask=MASKS)
PARTS = st.lists(st.tuples(st.just(0), DATA_FRAMES | PINGS) | st.tuples(st.just(1), PONGS), max_size=8)
BEGINNINGS = st.sampled_from([b"", REQUEST, RESPONSE, PLAIN + REQUEST, PLAIN * 3 + REQUEST, REFUSAL + RESPONSE])
PLACES = st.lists(st.integers(0, 10**6), max_size=8)


@given(BEGINNINGS, PARTS, PLACES)
def test_pongs_are_counted_by_their_heads_however_the_stream_is_cut(beginning, parts, places):
    """Behind any handshake, between frames of any length; what looks like a pong inside a message is none."""
    stream = beginning + b"".join(each for _, each in parts)
    n_pongs, frames = count(stream, places)
    assert n_pongs == sum(n for n, _ in parts)
    assert frames.is_ready == bool(stream)


@given(PARTS, PLACES)
def test_no_more_answers_than_are_owed(parts, places):
    """A pong that nobody has asked for is allowed (5.5.3), and answers nothing."""
    assert count(b"".join(each for _, each in parts), places, n_owed=0)[0] == 0


@given(st.integers(0, 4), st.integers(1, 9))
def test_a_frame_is_recognised_as_soon_as_its_head_is_there(mask_size, n_missing):
    """The payload of a pong need not have arrived; with a byte of the head missing, nothing is known."""
    pong = frame(PONG, b"ten bytes.", mask=bytes(mask_size and 4))
    assert count(pong[:-n_missing])[0] == 1
    assert count(pong[: 1 + (mask_size and 4)])[0] == 0


@pytest.mark.parametrize(
    ("stream", "is_ready"),
    [
        (b"", False),
        (REQUEST[:-1], False),
        (REQUEST, True),
        (RESPONSE, True),
        (PLAIN * 100, False),
        (PLAIN + b"x" * 100_000 + b"\r\n\r\n" + REQUEST, True),
        (REFUSAL, False),
        (b"GET / HTTP/1.1\r\nHost: websocket.example.com\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", False),
        (REFUSAL + RESPONSE, True),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01", False),
        (frame(0x81, b"hello"), True),
        (frame(0x41, b"compressed"), True),
        (frame(0x81, b"hello") + frame(CLOSE, b"\x03\xe8"), False),
        (frame(CLOSE), False),
    ],
)
def test_a_ping_would_be_understood_between_handshake_and_close(stream, is_ready):
    """Not in HTTP before it, nor in HTTP/2 or TLS, nor behind a close frame."""
    assert count(stream, [3, 5, 30])[1].is_ready == is_ready
    assert count(stream)[1].is_ready == is_ready


def test_nothing_behind_a_close_frame_is_looked_at():
    """There are no more frames; whatever comes is handed on."""
    assert count(frame(CLOSE, b"\x03\xe8bye") + EMPTY_PONG + b"\xff" * 100, [7])[0] == 0


@pytest.mark.parametrize("byte", [0x83, 0x87, 0x8B, 0x0A, 0x09, 0xCA, 0xA1, 0x91, 0x47])
def test_what_is_no_frame_ends_it(byte):
    """Reserved opcodes and bits, and control frames in fragments: whatever this is, its pongs cannot be told."""
    with pytest.raises(ValueError, match=f"^no WebSocket frame can begin with 0x{byte:02x}$"):
        count(frame(0x81, b"hello") + bytes([byte]))


def test_what_is_kept_of_a_head_is_bounded():
    """A body without an empty line is not hoarded until there is one."""
    frames = PongFrames()
    for _ in range(100):
        frames.take(b"P" * 1000, 1)
        assert len(frames._partial) <= MAX_HEAD  # noqa: SLF001 - memory has no other face


# As a heartbeat


def test_a_server_pings_without_a_mask_and_a_client_with_a_new_one_each_time():
    """As RFC 6455, 5.1, demands of each side; a ping has no payload."""
    masks = iter([b"abcd", b"efghijkl"])
    make = ping(lambda: next(masks))
    assert ping(None) == b"\x89\x00"
    assert [make(), make()] == [b"\x89\x80abcd", b"\x89\x80efgh"]
    made = Heartbeat.websocket(mask=secrets.token_bytes).payload
    assert made() != made()


@pytest.mark.parametrize("mask", [b"abc", "abcd", None, bytearray(4)])
def test_a_mask_that_is_none_stops_the_heartbeat(mask):
    """It is told as any failure of a payload is, and nothing is sent."""
    heart = Heart(Heartbeat.websocket(mask=lambda: mask), 0.0)
    heart.receive(RESPONSE, 0.0)
    assert heart.due(20.0, is_excused=False) is None
    assert str(heart.take_failure()) == f"heartbeat.mask() gave {type(mask).__name__}, not bytes, 4 or more"


def test_a_mask_that_is_no_function_is_refused():
    """One mask for all frames would be as good as none."""
    with pytest.raises(PolicyError, match=r"^heartbeat.mask=b'abcd' makes no sense: give a function of random bytes"):
        Heartbeat.websocket(mask=b"abcd")


def test_the_heartbeat_of_a_websocket():
    """Nothing is asked before the handshake; a pong answers, and the application's library receives it, too."""
    heartbeat = Heartbeat.websocket(every=20, timeout=5)
    assert heartbeat == Heartbeat.websocket(every=20, timeout=5)
    heart = Heart(heartbeat, 0.0)
    assert (heart.due(20.0, is_excused=False), heart.next_at) == (None, 40.0)
    assert heart.receive(REQUEST, 30.0) == REQUEST
    assert heart.due(50.0, is_excused=False) == b"\x89\x00"
    heart.sent(50.0)
    assert heart.receive(frame(0x81, EMPTY_PONG), 51.0) == frame(0x81, EMPTY_PONG)
    assert heart.state is BeatState.ASKED
    assert heart.receive(EMPTY_PONG, 52.0) == EMPTY_PONG
    assert (heart.state, heart.rtt) == (BeatState.WAITING, 2.0)


def test_a_stream_that_is_no_websocket_stops_the_heartbeat():
    """Nobody is lost for it, and each byte is handed on."""
    heart = Heart(Heartbeat.websocket(), 0.0)
    assert [heart.receive(chunk, 1.0) for chunk in (b"\x81\x00\xff", b"\xff")] == [b"\x81\x00\xff", b"\xff"]
    assert isinstance(heart.take_failure(), ValueError)
    assert heart.next_at is None


def test_each_connection_has_a_parser_of_its_own():
    """Two connections under one policy stand at different places of their streams."""
    heartbeat = Heartbeat.websocket()
    one, other = Heart(heartbeat, 0.0), Heart(heartbeat, 0.0)
    one.receive(frame(0x82, b"x" * 100)[:50], 1.0)
    other.receive(REQUEST, 1.0)
    for heart in (one, other):
        heart.sent(21.0)
        heart.receive(EMPTY_PONG, 22.0)
    assert (one.state, other.state) == (BeatState.ASKED, BeatState.WAITING)
