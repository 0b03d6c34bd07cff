"""What a record takes: of a connection with which nothing is the matter, next to nothing."""

import sys

from loopback import connect
from sockguard._core.connection import Activity, begin
from sockguard._core.decide import KEEP
from sockguard._engine.record import Record
from sockguard._engine.registry import Registry

LOOK = Activity(1, received=500, acked=80, unread=0, unsent=0, since_received=4.0, since_heard=2.0)


def record_of(sock: object) -> Record:
    return Record(sock, None, 5, 8202, 1.0, True, None, None)


def test_what_only_the_sick_have_is_made_when_it_is_first_said():
    """To say that there is none makes nothing; to say one thing says nothing of the others."""
    with connect() as c:
        record = record_of(c.server)
        record.names = record.verdict = record.reported = record.ended_at = None
        assert record.trouble is None
        record.verdict = KEEP
        assert (record.verdict, record.names, record.reported, record.ended_at) == (KEEP, None, None, None)
        record.verdict = None
        assert (record.verdict, record.is_ended_by_guard) == (None, False)


def test_its_history_comes_back_and_tells_of_a_hang_up():
    """Packed or not, what was put in is what is given."""
    with connect() as c:
        record = record_of(c.server)
        for activity in (LOOK, LOOK._replace(state=8)):
            connection = begin(8202, activity, opened_at=1.0, now=9.0, is_server=True)
            record.connection = connection
            assert (record.connection, record.is_hung_up) == (connection, activity.state == 8)
        record.connection = None
        assert (record.connection, record.is_hung_up) == (None, False)


def test_records_are_small_and_share_what_is_told_of_their_end():
    """Ten slots, and one callback for all: `benchmarks/bench_guard_memory.py` has the sum."""
    with connect() as c:
        registry = Registry()
        for sock in (c.client, c.server):
            registry.opened.append((lambda sock=sock: sock, sock.fileno(), True, None, None, None, None))
        first, second = registry.take_new(1.0)
        assert first.__callback__ is second.__callback__
        assert max(map(sys.getsizeof, (first, second))) <= 160
