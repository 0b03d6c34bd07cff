"""The answer to our PING among the replies of a Redis server: whole replies only, wherever TCP cuts."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockguard._core.redis_pongs import MAX_LINE, PING, PONG, SUBSCRIBED_PONG, RedisPongs

REFUSAL = b"-LOADING Redis is loading the dataset in memory\r\n"
SIMPLE = st.text("aGNOP+ ", max_size=8).map(str.encode)
NUMBERS = st.integers(-99, 99).map(str)


def line(kind: str, text: object) -> bytes:
    return f"{kind}{text}\r\n".encode()


def blob(kind: str, data: bytes) -> bytes:
    return line(kind, len(data)) + data + b"\r\n"


def aggregate(kind: str, elements: list[bytes]) -> bytes:
    return line(kind, len(elements) // (2 if kind in "%|" else 1)) + b"".join(elements)


DATA = SIMPLE | st.sampled_from([PONG, PONG * 3, SUBSCRIBED_PONG, b"\r\n" + PONG, b"*9\r\n", b"$99\r\n", REFUSAL])
SCALARS = st.one_of(
    SIMPLE.map(lambda text: b"+" + text + b"\r\n"),
    SIMPLE.map(lambda text: b"-ERR " + text + b"\r\n"),
    st.builds(line, st.sampled_from(":,("), NUMBERS),
    st.builds(blob, st.sampled_from("$=!"), DATA),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b"#f\r\n"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(aggregate, st.sampled_from("*~>"), st.lists(inner | st.just(PONG), max_size=4)),
        st.builds(
            aggregate,
            st.just("%"),
            st.lists(st.tuples(inner, inner), max_size=2).map(lambda pairs: [*itertools.chain(*pairs)]),
        ),
        st.tuples(inner, inner, SCALARS).map(lambda both: aggregate("|", [*both[:2]]) + both[2]),
    ),
    max_leaves=6,
)
"""Replies of any type of RESP2 and RESP3 that are no answer to a PING, though they may hold what looks like one."""
REPLIES = VALUES.filter(lambda value: value not in {PONG, SUBSCRIBED_PONG})
ANSWERS = st.sampled_from(
    [
        PONG,
        SUBSCRIBED_PONG,
        REFUSAL,
        b"-NOAUTH Authentication required.\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-MISCONF Errors writing to the AOF file: No space left on device\r\n",
        b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n",
        b"-NOPERM this user has no permissions to run the 'ping' command or its subcommand\r\n",
        b"-NOPERM User default has no permissions to run the 'ping' command\r\n",
    ]
)
PLACES = st.lists(st.integers(0, 10**4), max_size=8)


def feed(replies: RedisPongs, stream: bytes, places: list[int] = (), *, n_owed: int = 1) -> tuple[bytes, int]:
    """Feeds a stream, cut at these places; gives what is handed on, and how many answers there were."""
    ends = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    passed, n_found = b"", 0
    for a, b in itertools.pairwise(ends):
        rest, n = replies.take(stream[a:b], n_owed - n_found)
        passed, n_found = passed + rest, n_found + n
    return passed, n_found


@given(st.lists(REPLIES, max_size=4), ANSWERS, st.lists(REPLIES | ANSWERS, max_size=3), PLACES)
@example([blob("$", PONG)], PONG, [], [])
@example([aggregate("%", [PONG, PONG])], PONG, [], [])
@example([aggregate("|", [PONG, PONG]) + PONG], PONG, [], [])
@example([aggregate("*", [blob("$", b""), PONG])], PONG, [], [])
@example([aggregate("*", [PONG, PONG])], PONG, [PONG], [9, 14])
def test_the_answer_is_taken_out_and_nothing_else_however_the_stream_is_cut(before, answer, after, places):
    """Behind replies that the application is owed, and before others; what looks alike inside a value stays."""
    replies, tail = RedisPongs(), b"".join(after)
    passed, n_found = feed(replies, b"".join(before) + answer + tail, places)
    assert (passed + replies.release(), n_found) == (b"".join(before) + tail, 1)


@given(st.lists(REPLIES, max_size=4), PLACES)
def test_what_is_no_answer_passes_and_is_held_back_by_a_line_at_most(values, places):
    """A client can do nothing with half a line; with all else it may begin at once."""
    replies, stream = RedisPongs(), b"".join(values)
    passed, n_found = feed(replies, stream, places)
    held = replies.release()
    assert (passed + held, n_found) == (stream, 0)
    assert held == b""


@given(st.lists(REPLIES | ANSWERS, max_size=4), PLACES)
def test_nothing_is_taken_out_or_held_back_while_none_is_owed(values, places):
    """The application's own PING has its own answer."""
    replies, stream = RedisPongs(), b"".join(values)
    for a, b in itertools.pairwise([0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]):
        assert replies.take(stream[a:b], 0) == (stream[a:b], 0)
    assert replies.release() == b""


@given(st.lists(REPLIES | ANSWERS, max_size=4), PLACES, ANSWERS)
def test_a_question_between_two_replies_however_those_before_were_cut(values, places, answer):
    """The end of the last reply is known, though nothing was followed until the question."""
    replies, stream = RedisPongs(), b"".join(values)
    feed(replies, stream, places, n_owed=0)
    assert feed(replies, answer, places) == (b"", 1)


@given(st.binary(max_size=60), PLACES)
def test_any_bytes_pass(stream, places):
    """Even those of a server that does not speak this protocol: nothing is lost, and nothing raised."""
    replies = RedisPongs()
    passed, n_found = feed(replies, stream, places)
    assert n_found or passed + replies.release() == stream


def test_of_two_answers_each_question_has_one():
    """Two PINGs, of which one is the application's: it gets one answer, as it should."""
    assert feed(RedisPongs(), PONG + PONG, [3]) == (PONG, 1)
    assert feed(RedisPongs(), PONG + b":1\r\n" + PONG, [3, 9], n_owed=2) == (b":1\r\n", 2)


def test_a_question_in_the_middle_of_a_reply():
    """The server stalled within a value; the next line is the first that may begin an answer."""
    replies = RedisPongs()
    assert replies.take(b"$12\r\nabc", 0) == (b"$12\r\nabc", 0)
    assert replies.take(PONG, 1) == (PONG, 0)
    assert replies.take(b"\r\n" + PONG, 1) == (b"\r\n", 1)


def test_the_application_s_own_refusals_are_left_to_it():
    """A command that it may not run, and an error of a kind that no PING meets."""
    own = b"-NOPERM this user has no permissions to run the 'get' command\r\n-ERR no command 'ping'\r\n-BUSYGROUP x\r\n"
    assert feed(RedisPongs(), own + PONG, [5, 70]) == (own, 1)


def test_a_line_without_an_end_is_not_hoarded():
    """Beyond a length it cannot be the answer, and is handed on as it comes; the next line may be."""
    replies, long = RedisPongs(), b"+" + b"x" * MAX_LINE
    assert replies.take(long[:-1], 1) == (b"", 0)
    assert replies.take(long[-1:] + b"y", 1) == (long + b"y", 0)
    assert replies.take(b"zz\r", 1) == (b"zz\r", 0)
    assert replies.take(b"\n" + PONG + b":1\r\n", 1) == (b"\n:1\r\n", 1)


@pytest.mark.parametrize("length", [b"", b"-2", b"x", b"1_0", b"9" * 1000, b"9" * 5000])
def test_a_length_that_is_none_does_no_harm(length):
    """It is handed on like anything else."""
    stream = b"*" + length + b"\r\n$" + length + b"\r\n"
    replies = RedisPongs()
    passed, n_found = feed(replies, stream)
    assert (passed + replies.release(), n_found) == (stream, 0)


def test_the_question_is_an_array_of_one_blob():
    """The form that every server and proxy takes."""
    assert aggregate("*", [blob("$", b"PING")]) == PING
