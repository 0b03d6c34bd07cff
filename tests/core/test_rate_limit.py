"""One event of a kind and origin per period, and the others by their number: cases and laws."""

from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.events import Event, EventName, make_event
from sockguard._core.rate_limit import MAX_SITES, PERIOD, RateLimit

CLOSED, LEAK, PEER = EventName.CONNECTION_CLOSED, EventName.LEAK_DETECTED, EventName.PEER_CLOSED
STEPS = st.lists(
    st.tuples(st.sampled_from([CLOSED, LEAK]), st.integers(0, 5), st.floats(-1, 30), st.booleans()), max_size=60
)
"""Kind, site, seconds since the one before (clocks may go wrong), and whether overdue ones are asked for."""


def event(name: EventName = LEAK, site: object = "a", fd: int = 3) -> Event:
    return make_event(name, site=site, fd=fd)


def suppressed(told: Event) -> object:
    return told.fields.get("suppressed")


def weight(told: list[Event]) -> int:
    """For how many events these stand."""
    return sum(1 + (suppressed(each) or 0) for each in told)  # type: ignore[operator]


def test_first_event_is_told_as_it_is() -> None:
    """What happens for the first time is told at once, unchanged."""
    first = event()
    assert RateLimit().offer(first, 0.0) == [first]


def test_others_within_the_period_are_withheld_and_counted() -> None:
    """Within a period nothing more is told; the next one after it says how many there were, in field and text."""
    limit = RateLimit(10.0)
    limit.offer(event(), 0.0)
    assert [limit.offer(event(), now) for now in (0.1, 5.0, 9.9)] == [[], [], []]
    assert limit.n_withheld == 3
    (told,) = limit.offer(event(fd=9), 10.0)
    assert (suppressed(told), told.fields["fd"], limit.n_withheld) == (3, 9, 0)
    assert told.message.endswith(" (3 more like it were not told.)")


def test_kinds_and_sites_have_a_limit_each() -> None:
    """Another kind, or another origin, is told although this one was told just now."""
    limit = RateLimit()
    assert [len(limit.offer(e, 0.0)) for e in (event(), event(PEER), event(site="b"), event())] == [1, 1, 1, 0]


def test_an_event_that_nothing_follows_is_told_when_it_is_overdue() -> None:
    """The last of a burst is told one period after the first, though no further one comes."""
    limit = RateLimit(10.0)
    limit.offer(event(fd=1), 0.0)
    assert limit.next_at() is None
    limit.offer(event(fd=2), 1.0)
    limit.offer(event(fd=3), 2.0)
    assert (limit.next_at(), limit.overdue(9.9)) == (10.0, [])
    (told,) = limit.overdue(10.0)
    assert (told.fields["fd"], suppressed(told)) == (3, 1)
    assert (limit.next_at(), limit.overdue(99.0)) == (None, [])


def test_one_that_was_withheld_alone_stands_for_itself() -> None:
    """An event that comes late says nothing of others when there are none."""
    limit = RateLimit(10.0)
    limit.offer(event(), 0.0)
    limit.offer(event(fd=2), 1.0)
    assert limit.overdue(10.0) == [event(fd=2)]


def test_telling_what_is_overdue_begins_a_new_period() -> None:
    """What was told late counts as told: the next one waits again."""
    limit = RateLimit(10.0)
    limit.offer(event(), 0.0)
    limit.offer(event(), 1.0)
    limit.overdue(12.0)
    assert limit.offer(event(), 20.0) == []
    assert limit.next_at() == 22.0


def test_rest_is_told_at_the_end() -> None:
    """Before the end, all that is withheld comes out."""
    limit = RateLimit()
    for site in ("a", "b", "b", "b"):
        limit.offer(event(site=site), 0.0)
    limit.offer(event(site="a"), 0.0)
    assert [(e.site, suppressed(e)) for e in limit.rest()] == [("b", 1), ("a", None)]
    assert (limit.rest(), limit.n_withheld) == ([], 0)


def test_only_the_first_close_of_a_site_is_a_warning() -> None:
    """Later closes of the same site are information; a leak is a warning each time."""
    limit = RateLimit(10.0)
    levels = [e.level for now in (0.0, 10.0, 20.0) for e in limit.offer(event(CLOSED), now)]
    assert levels == ["warning", "info", "info"]
    assert [e.level for now in (0.0, 10.0) for e in limit.offer(event(LEAK), now)] == ["warning", "warning"]


def test_sites_are_forgotten_beyond_a_number_the_oldest_first() -> None:
    """Memory is bounded: the site that was told longest ago makes room, and what it withheld is told then."""
    limit = RateLimit(10.0, max_sites=2)
    limit.offer(event(site="a"), 0.0)
    limit.offer(event(site="b"), 1.0)
    limit.offer(event(site="a", fd=5), 2.0)
    limit.offer(event(site="a", fd=6), 3.0)
    rest, new = limit.offer(event(site="c"), 4.0)
    assert (rest.site, rest.fields["fd"], suppressed(rest), new) == ("a", 6, 1, event(site="c"))
    assert limit.offer(event(site="d"), 5.0) == [event(site="d")]
    assert limit.offer(event(site="a"), 6.0) == [event(site="a")]
    assert limit.offer(event(site="d"), 7.0) == []


def test_telling_makes_a_site_young_again() -> None:
    """The site that is forgotten is the one that was told longest ago, not the one that came first."""
    limit = RateLimit(10.0, max_sites=2)
    limit.offer(event(site="a"), 0.0)
    limit.offer(event(site="b"), 1.0)
    limit.offer(event(site="a"), 11.0)
    limit.offer(event(site="c"), 12.0)
    assert limit.offer(event(site="a"), 13.0) == []
    assert limit.offer(event(site="b"), 13.0)[-1] == event(site="b")


def test_defaults_suit_a_log() -> None:
    """A site that runs wild writes a line a minute, and some thousand sites are remembered."""
    assert (PERIOD, MAX_SITES) == (60.0, 4096)


@given(STEPS, st.integers(1, 4))
def test_nothing_is_lost(steps, max_sites: int) -> None:
    """What was told, what that stands for and what is withheld add up to what was offered, at every moment."""
    limit, now, told = RateLimit(10.0, max_sites), 0.0, []
    for n, (name, site, seconds, is_asked) in enumerate(steps, 1):
        now += seconds
        told += limit.offer(event(name, site), now)
        assert weight(told) + limit.n_withheld == n
        if is_asked:
            told += limit.overdue(now)
            assert weight(told) + limit.n_withheld == n
    assert weight(told + limit.rest()) == len(steps)


@given(STEPS)
def test_no_site_is_told_twice_within_a_period(steps) -> None:
    """As long as no site is forgotten, two tellings of one lie a period apart."""
    limit, now, told_at = RateLimit(10.0), 0.0, {}
    for name, site, seconds, is_asked in steps:
        now += abs(seconds)
        for told in limit.offer(event(name, site), now) + (limit.overdue(now) if is_asked else []):
            key = (told.name, told.site)
            assert now - told_at.get(key, -99.0) >= 10.0
            told_at[key] = now


@given(STEPS)
def test_overdue_tells_when_next_at_says(steps) -> None:
    """`next_at` names the instant: just before it nothing is overdue, at it something is; asking changes nothing."""
    limit, now = RateLimit(10.0), 0.0
    for name, site, seconds, _ in steps:
        now += abs(seconds)
        limit.offer(event(name, site), now)
    due_at = limit.next_at()
    assert limit.next_at() == due_at
    assert (due_at is None) == (limit.n_withheld == 0)
    if due_at is not None:
        assert limit.overdue(due_at - 0.001) == []
        assert limit.overdue(due_at + 0.001)


@given(STEPS, st.integers(1, 4))
def test_memory_is_bounded(steps, max_sites: int) -> None:
    """However many sites there are, so many are remembered at most."""
    limit, now = RateLimit(10.0, max_sites), 0.0
    for name, site, seconds, _ in steps:
        now += seconds
        limit.offer(event(name, site), now)
        assert len(limit) <= max_sites


def test_what_is_only_counted_is_told_by_its_number() -> None:
    """One that is withheld stands for those that were never made; while none is, there is nothing that could."""
    limit = RateLimit(10.0)
    assert not limit.is_withheld(LEAK, "a", 0.0) and not limit.count(LEAK, "a")
    limit.offer(event(), 0.0)
    assert not limit.is_withheld(LEAK, "a", 1.0) and not limit.count(LEAK, "a")
    limit.offer(event(fd=7), 1.0)
    assert limit.is_withheld(LEAK, "a", 2.0) and not limit.is_withheld(CLOSED, "a", 2.0)
    assert [limit.count(LEAK, "a") for _ in range(3)] == [True] * 3
    assert limit.n_withheld == 4
    assert not limit.is_withheld(LEAK, "a", 10.0)  # the next one is told
    (told,) = limit.overdue(10.0)
    assert (suppressed(told), told.fields["fd"], limit.n_withheld) == (3, 7, 0)
