"""What waits for its turn: each once, in the order in which it came."""

from hypothesis import given
from hypothesis import strategies as st

from sockguard._engine.turns import Turns


def test_things_come_in_their_order_and_once():
    """What is added again while it waits keeps its place; what has had its turn can be added anew."""
    turns = Turns()
    turns.add([3, 1, 2])
    turns.add([1, 4])
    assert list(turns.take(2)) == [3, 1] and len(turns) == 2
    turns.add([3])
    assert list(turns.take(99)) == [2, 4, 3] and len(turns) == 0


def test_what_was_not_yielded_goes_on_waiting():
    """Whoever stops in the midst, by an error too, has taken only what he got."""
    turns = Turns()
    turns.add(range(5))
    for thing in turns.take(5):
        if thing == 2:
            break
    assert list(turns.take(5)) == [3, 4]


@given(st.lists(st.lists(st.integers(0, 20))), st.integers(1, 5))
def test_nobody_is_passed_over(rounds, most):
    """However many come after it: what is in the queue at some place has had its turn after so many rounds."""
    turns = Turns()
    turns.add(["first"])
    turns.add(range(100, 110))
    seen = []
    for more in [*rounds, *[[]] * 20]:
        turns.add(more)
        seen += turns.take(most)
    assert "first" in seen[:1] and set(range(100, 110)) <= set(seen)
