"""The table of descriptors against a dict."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.fd_table import FdTable

FDS = st.integers(0, 40)
OPERATIONS = st.lists(st.tuples(st.sampled_from(["set", "delete", "pop"]), FDS, st.text(max_size=1)), max_size=40)


@given(OPERATIONS)
def test_it_is_a_dict_in_the_order_of_the_numbers(operations) -> None:
    """Whatever is put in and taken out, a dict says the same."""
    table: FdTable[str] = FdTable()
    known: dict[int, str] = {}
    for name, fd, value in operations:
        if name == "set":
            table[fd] = known[fd] = value
        elif name == "pop":
            assert table.pop(fd, "none") == known.pop(fd, "none")
        elif fd in known:
            del table[fd], known[fd]
        assert (table, len(table), bool(table)) == (known, len(known), bool(known))
        assert [table.get(fd), table.get(fd, "none"), fd in table] == [
            known.get(fd),
            known.get(fd, "none"),
            fd in known,
        ]
    assert (list(table.items()), table.listed()) == (sorted(known.items()), [known[fd] for fd in sorted(known)])


@pytest.mark.parametrize("fd", [0, 3, 5, 7, -1])
def test_what_is_not_there_is_a_key_error(fd) -> None:
    """Below, between and beyond what is there, and of a number that is no descriptor."""
    table = FdTable()
    table[4] = table[6] = "x"
    with pytest.raises(KeyError):
        table[fd]
    with pytest.raises(KeyError):
        del table[fd]
    assert (table.get(fd), fd in table, "4" in table) == (None, False, False)


def test_a_negative_number_is_refused() -> None:
    """It would be counted from the end."""
    table = FdTable()
    table[4] = "x"
    with pytest.raises(ValueError, match="-1 is no descriptor"):
        table[-1] = "y"
    assert table == {4: "x"}


def test_it_takes_a_quarter_of_a_dict() -> None:
    """Also where numbers come and go."""
    tracemalloc.start()
    try:
        table: FdTable[str] = FdTable()
        for _ in range(3):
            for fd in range(10_000):
                table[fd] = "x"
            for fd in range(0, 10_000, 2):
                del table[fd]
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown / 10_000 < 10
