"""The stamps of a wrapper: what is counted, what is not, and which instants stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.books import Books

CALLS = st.lists(st.tuples(st.sampled_from(["received", "sent"]), st.integers(0, 1 << 40)), max_size=20)


def test_a_connection_that_nothing_moved_on_was_last_updated_when_it_was_opened():
    """Nothing is counted, and nothing has ended."""
    books = Books(5.0)
    assert (books.received_bytes, books.sent_bytes, books.last_update) == (0, 0, 5.0)
    assert (books.eof_at, books.failed_at) == (None, None)


def test_each_direction_has_a_count_and_an_instant_of_its_own():
    """The later of both is the last update."""
    books = Books(5.0)
    books.received(10, 6.0)
    books.received(1, 7.0)
    assert (books.received_bytes, books.received_at, books.sent_at) == (11, 7.0, 5.0)
    books.sent(3, 8.0)
    assert (books.sent_bytes, books.sent_at, books.received_at, books.last_update) == (3, 8.0, 7.0, 8.0)


@pytest.mark.parametrize("call", ["received", "sent"])
def test_no_byte_is_no_movement(call):
    """An empty send() and the end of the stream renew no instant."""
    books = Books(5.0)
    getattr(books, call)(0, 6.0)
    assert books.last_update == 5.0


@pytest.mark.parametrize("call", ["eof", "failed"])
def test_an_end_is_noted_once(call):
    """A program that reads the end again and again does not make it younger; and it is no movement."""
    books = Books(5.0)
    getattr(books, call)(6.0)
    getattr(books, call)(7.0)
    assert (getattr(books, f"{call}_at"), books.last_update) == (6.0, 5.0)


@given(CALLS)
def test_counts_are_sums_and_instants_are_those_of_the_last_byte(calls):
    """Whatever moves in whichever order, on a clock that does not go back."""
    books = Books(0.0)
    for at, (call, n) in enumerate(calls):
        getattr(books, call)(n, float(at))
    for call in ("received", "sent"):
        moved = [(n, float(at)) for at, (name, n) in enumerate(calls) if name == call and n]
        assert getattr(books, f"{call}_bytes") == sum(n for n, _ in moved)
        assert getattr(books, f"{call}_at") == max((at for _, at in moved), default=0.0)


def test_they_take_no_attribute_that_they_do_not_have():
    """A misspelt stamp is an error, and 100,000 connections cost no dictionary each."""
    with pytest.raises(AttributeError):
        Books(0.0).recieved_at = 1.0
