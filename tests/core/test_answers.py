"""Answers in a stream of bytes: which are found, taken out, held back, and what else passes unchanged."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.answers import Answers, Found, Judged, answers_for


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cuts bytes at these places, as TCP might."""
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def feed(answers: Answers, chunks: list[bytes], n_owed: int) -> tuple[list[bytes], int]:
    """Feeds chunks; gives what was handed on for each, and how many answers were found."""
    passed, n_found = [], 0
    for chunk in chunks:
        rest, n = answers.take(chunk, n_owed - n_found)
        passed.append(rest)
        n_found += n
    return passed, n_found


# Found: the same bytes


@pytest.mark.parametrize(
    ("stream", "rest"),
    [
        (b"+PONG\r\n", b""),
        (b"+PONG\r\n$3\r\nabc\r\n", b"$3\r\nabc\r\n"),
        (b"$3\r\nabc\r\n+PONG\r\n", b"$3\r\nabc\r\n"),
        (b":1\r\n+PONG\r\n:2\r\n", b":1\r\n:2\r\n"),
        (b"+PONG\r\n+PONG\r\n", b"+PONG\r\n"),
        (b"-+PONG\r\n", None),
        (b"+PONG\r", None),
        (b"+PONG \r\n", None),
    ],
)
def test_a_line_is_taken_out_where_a_line_begins(stream, rest):
    """Before, behind or between replies, once for each question; what only ends alike is passed on."""
    answers = Found(b"+PONG\r\n")
    [passed], n_found = feed(answers, [stream], 1)
    assert (passed + answers.release(), n_found) == ((stream, 0) if rest is None else (rest, 1))


def test_nothing_is_taken_while_none_is_owed():
    """A look-alike is the application's own: its own PING, answered."""
    assert feed(Found(b"+PONG\r\n"), [b"+PONG\r\n", b"+PO", b"NG\r\n"], 0) == ([b"+PONG\r\n", b"+PO", b"NG\r\n"], 0)


def test_what_began_before_the_question_is_not_its_answer():
    """The head of it was handed on already, so the tail has to follow."""
    answers = Found(b"PONG\n")
    assert answers.take(b"PO", 0) == (b"PO", 0)
    assert answers.take(b"NG\nPONG\n", 1) == (b"NG\n", 1)


def test_a_place_within_a_line_is_remembered_from_before_the_question():
    """A chunk that begins in the middle of a line does not begin a line."""
    answers = Found(b"PONG\n")
    assert answers.take(b"KING ", 0) == (b"KING ", 0)
    assert answers.take(b"PONG\n", 1) == (b"PONG\n", 0)
    assert answers.take(b"PONG\n", 1) == (b"", 1)


def test_two_answers_in_one_line_after_the_other():
    """Each begins where the one before has ended, in whatever place the chunk began."""
    answers = Found(b"PONG\n")
    assert answers.take(b"x", 0) == (b"x", 0)
    assert answers.take(b"y\nPONG\nPONG\nPO", 2) == (b"y\nPO", 2)


def test_nothing_is_held_back_when_all_answers_are_there():
    """What looks like the beginning of one more is the application's."""
    answers = Found(b"PONG\n")
    assert answers.take(b"PONG\nPON", 1) == (b"PON", 1)
    assert answers.take(b"G\n", 0) == (b"G\n", 0)


def test_an_answer_without_a_newline_is_taken_out_anywhere():
    """A fixed frame of a binary protocol can begin behind any byte."""
    assert feed(Found(b"\xd0\x00\xd0"), [b"\x30\x01\xd0\x00", b"\xd0\x30"], 1) == ([b"\x30\x01", b"\x30"], 1)


def test_what_may_become_an_answer_is_held_back_and_handed_on_if_it_does_not():
    """Nothing is lost: neither when the next bytes differ, nor when the stream ends."""
    answers = Found(b"PONG\n")
    assert feed(answers, [b"x\nPO", b"N", b"Y\nPON"], 1) == ([b"x\n", b"", b"PONY\n"], 0)
    assert (answers.release(), answers.release()) == (b"PON", b"")


def test_what_was_held_back_can_begin_anew_inside_itself():
    """The longest beginning was none, but a shorter one within it is."""
    assert feed(Found(b"aab"), [b"a", b"a", b"a", b"b"], 1) == ([b"", b"", b"a", b""], 1)
    assert feed(Found(b"\n\n"), [b"x\n", b"\n", b"\n"], 1) == ([b"x\n", b"", b""], 1)
    assert Found(b"\n").take(b"x\n\n", 1) == (b"x\n", 1)


def test_what_is_held_back_is_less_than_an_answer():
    """However much arrives, the application waits for less than the length of an answer."""
    answers, stream = Found(b"aaab"), b"a" * 100
    assert answers.take(stream, 1) == (stream[:97], 0)


ALPHABET = "ab\n"
STREAMS = st.text(ALPHABET, max_size=40).map(str.encode)
ANSWERS = st.text(ALPHABET, min_size=1, max_size=4).map(str.encode)
HAPPENINGS = st.lists(st.none() | STREAMS, max_size=12)
"""What happens on a connection: a question is sent (None), or bytes arrive."""


def model(answer: bytes, happenings: list[bytes | None]) -> tuple[bytes, int]:
    """Goes through the whole stream byte by byte: what is the application's, and how many answers there were."""
    stream = b"".join(each or b"" for each in happenings)
    asked_at, position = [], 0
    for each in happenings:
        asked_at += [position] if each is None else []
        position += len(each or b"")
    rest, at, n = b"", 0, 0
    while at < len(stream):
        is_owed = sum(place <= at for place in asked_at) > n
        is_place = answer[-1:] != b"\n" or at == 0 or stream[at - 1 : at] == b"\n"
        if is_owed and is_place and stream.startswith(answer, at):
            at, n = at + len(answer), n + 1
        else:
            rest, at = rest + stream[at : at + 1], at + 1
    return rest, n


@given(ANSWERS, HAPPENINGS, st.lists(st.integers(0, 40), max_size=5))
def test_the_stream_passes_unchanged_but_for_answers_however_it_is_cut(answer, happenings, places):
    """What is handed on is the stream without the first answers after each question; the segments play no part."""
    answers, passed, n_owed, n_found = Found(answer), b"", 0, 0
    for each in happenings:
        if each is None:
            n_owed += 1
            continue
        rests, n = feed(answers, cut(each, places), n_owed)
        passed, n_owed, n_found = passed + b"".join(rests), n_owed - n, n_found + n
    assert (passed + answers.release(), n_found) == model(answer, happenings)


@given(ANSWERS, STREAMS, st.lists(st.integers(0, 40), max_size=5))
def test_bytes_are_handed_on_as_soon_as_they_cannot_be_an_answer(answer, stream, places):
    """At any time, what is held back is the beginning of an answer, and nothing at all if none is owed."""
    answers, arrived, passed = Found(answer), b"", b""
    for chunk in cut(stream, places):
        rest, n = answers.take(chunk, 1)
        arrived, passed = arrived + chunk, passed + rest
        held = arrived[len(passed) :]
        if n:
            return
        assert held != answer
        assert answer.startswith(held)
        assert not held or answer[-1:] != b"\n" or arrived[: len(passed)][-1:] in {b"", b"\n"}


# Judged: a function says so


def test_a_function_is_asked_while_an_answer_is_owed_and_all_bytes_pass():
    """It sees the chunks as they come; what it returns is taken for yes or no."""
    seen = []
    answers = Judged(lambda chunk: seen.append(chunk) or chunk == b"pong")
    assert feed(answers, [b"a", b"pong", b"pong"], 1) == ([b"a", b"pong", b"pong"], 1)
    assert seen == [b"a", b"pong"]
    assert answers.release() == b""


# What a heartbeat expects


def test_each_kind_of_expectation_has_its_own_way():
    """Bytes are found, a function judges; None expects nothing."""
    assert answers_for(None) is None
    assert isinstance(answers_for(b"x"), Found)
    assert isinstance(answers_for(bool), Judged)


def test_a_kind_of_answers_is_made_anew_for_each_connection():
    """A parser that remembers where it is belongs to one stream."""
    one, other = answers_for(Answers), answers_for(Answers)  # type: ignore[arg-type]
    assert type(one) is type(other) is Answers
    assert one is not other
    assert one.is_ready
    with pytest.raises(NotImplementedError):
        one.take(b"", 0)
