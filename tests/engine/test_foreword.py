"""What is told at the start reaches a log that is set up later."""

import pytest

from sockguard._core.events import Event, EventName, make_event
from sockguard._engine.foreword import MAX_WAITING, Foreword


def warning(site: object = "a") -> Event:
    return make_event(EventName.POLICY_WARNING, site=site, field=str(site))


class Scene:
    """An output that wants nothing yet, and what is told."""

    def __init__(self) -> None:
        self.is_wanted = False
        self.told: list[tuple[Event, float]] = []
        self.foreword = Foreword(self, lambda event, now: self.told.append((event, now)))

    def wants(self, _: Event) -> bool:
        return self.is_wanted

    def emit(self, event: Event) -> None:
        """Is not called: who tells does that."""

    def close(self) -> None:
        """Is not called either."""


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_is_wanted_is_told_at_once(scene):
    """A log that is set up already need not wait for a tick."""
    scene.is_wanted = True
    scene.foreword.add(warning(), 1.0)
    assert scene.told == [(warning(), 1.0)]


def test_what_nobody_wants_yet_waits_and_is_told_once(scene):
    """In the order in which it came, whenever the log is set up."""
    for site in "ab":
        scene.foreword.add(warning(site), 1.0)
    scene.foreword.tick(2.0)
    assert scene.told == []
    scene.is_wanted = True
    for now in (3.0, 4.0):
        scene.foreword.tick(now)
    assert scene.told == [(warning("a"), 3.0), (warning("b"), 3.0)]


def test_an_output_that_raises_is_left_to_who_tells(scene):
    """There it is taken out, and told of."""
    scene.wants = lambda _: 1 / 0
    scene.foreword.add(warning(), 1.0)
    assert scene.told == [(warning(), 1.0)]


def test_few_wait(scene):
    """Where nobody ever wants to know, memory does not grow."""
    for n in range(MAX_WAITING + 5):
        scene.foreword.add(warning(n), 1.0)
    scene.is_wanted = True
    scene.foreword.tick(2.0)
    assert len(scene.told) == MAX_WAITING


def test_a_child_leaves_it_to_its_parent(scene):
    """Each event is told by one process."""
    scene.foreword.add(warning(), 1.0)
    scene.foreword.after_fork_in_child()
    scene.is_wanted = True
    scene.foreword.tick(2.0)
    assert scene.told == []
