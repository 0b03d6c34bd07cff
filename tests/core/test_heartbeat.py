"""The heartbeat of one connection: cases, and laws for any order of things that happen."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.answers import Answers
from sockguard._core.heartbeat import MOVES, BeatState, Happening, Heart, after
from sockguard._core.policy_probes import Heartbeat
from sockguard._core.timers import TICK

WAITING, ASKED, LOST = BeatState
PING = Heartbeat(b"PING\n", every=30, timeout=10, expect=b"PONG\n")
NOP = Heartbeat(b"\xff\xf1", every=30)


def due(heart: Heart, now: float, *, is_excused: bool = False) -> bytes | None:
    return heart.due(now, is_excused=is_excused)


def check(heart: Heart, now: float, *, is_excused: bool = False) -> BeatState:
    return heart.check(now, is_excused=is_excused)


def asked(at: float = 30.0, heartbeat: Heartbeat = PING) -> Heart:
    """Makes a heart that has asked at this instant."""
    heart = Heart(heartbeat, at - heartbeat.every)
    assert due(heart, at) == heartbeat.payload
    heart.sent(at)
    return heart


# Waiting


def test_a_question_is_due_when_nothing_has_moved_for_long_enough():
    """Not before `every` seconds, and then until it is sent."""
    heart = Heart(PING, 100.0)
    assert (heart.state, heart.next_at, due(heart, 129.9)) == (WAITING, 130.0, None)
    assert [due(heart, now) for now in (130.0, 131.0)] == [b"PING\n", b"PING\n"]


@pytest.mark.parametrize("move", [Heart.moved, lambda heart, now: heart.receive(b"data", now)])
def test_waiting_starts_anew_with_each_move(move):
    """The application's own traffic, in whichever direction, makes a question needless."""
    heart = Heart(PING, 0.0)
    move(heart, 29.0)
    assert (heart.next_at, due(heart, 58.9), due(heart, 59.0)) == (59.0, None, b"PING\n")


def test_nothing_is_asked_while_we_are_late_ourselves():
    """What lies unread in our own queue may be anything; the question is put off, and not by a whole round."""
    heart = Heart(PING, 0.0)
    assert due(heart, 30.0, is_excused=True) is None
    assert (heart.state, heart.next_at, due(heart, 30.25)) == (WAITING, 30.25, b"PING\n")


def test_a_question_that_cannot_be_sent_now_is_due_again():
    """The application is in the middle of a message, say; `next_at` lies ahead, so that no loop spins meanwhile."""
    heart = Heart(PING, 0.0)
    assert due(heart, 40.0)
    assert (heart.state, heart.n_sent, heart.next_at) == (WAITING, 0, 40.0 + TICK)


# Asked


def test_an_answer_is_taken_out_and_timed():
    """The application sees nothing of it, and the next question is due one round later."""
    heart = asked(30.0)
    assert (heart.state, heart.n_sent, heart.rtt, heart.next_at) == (ASKED, 1, None, 40.0)
    assert heart.receive(b"PONG\n", 30.5) == b""
    assert (heart.state, heart.rtt, heart.n_answered, heart.next_at) == (WAITING, 0.5, 1, 60.5)


def test_an_answer_among_other_bytes():
    """Only the answer is taken out, wherever a line begins."""
    assert asked().receive(b"one\nPONG\ntwo\n", 31.0) == b"one\ntwo\n"


def test_an_answer_in_pieces():
    """What may be an answer is held back; the end of the stream gives back what was none."""
    heart = asked()
    assert [heart.receive(chunk, 31.0) for chunk in (b"x\nPO", b"NG", b"\nPO", b"")] == [b"x\n", b"", b"PO", b""]
    heart = asked()
    assert [heart.receive(chunk, 31.0) for chunk in (b"PO", b"", b"")] == [b"", b"PO", b""]


def test_a_lookalike_is_left_alone_when_nothing_is_asked():
    """The application may use the same words itself."""
    heart = Heart(PING, 0.0)
    assert heart.receive(b"PONG\n", 1.0) == b"PONG\n"
    heart = asked()
    assert [heart.receive(b"PONG\n", 31.0) for _ in range(2)] == [b"", b"PONG\n"]


def test_a_peer_that_stays_silent_is_lost():
    """After `timeout` seconds, not before; that is final, and there is nothing more to do."""
    heart = asked(30.0)
    assert [check(heart, now) for now in (30.0, 39.9, 40.0, 99.0)] == [ASKED, ASKED, LOST, LOST]
    assert (heart.next_at, due(heart, 200.0), heart.silence(40.0)) == (None, None, 10.0)


def test_only_the_answer_ends_a_question():
    """What the application sends does not, and neither does what else it receives."""
    heart = asked(30.0)
    heart.moved(31.0)
    assert heart.receive(b"data", 32.0) == b"data"
    assert (heart.state, heart.rtt, due(heart, 1000.0)) == (ASKED, None, None)


def test_bytes_that_arrive_put_the_verdict_off():
    """A long reply that the answer stands in line behind: the peer lives, so its silence begins with the last byte."""
    heart = asked(30.0)
    assert heart.receive(b"data", 39.0) == b"data"
    assert (heart.next_at, heart.silence(41.0)) == (49.0, 2.0)
    assert [check(heart, now) for now in (40.0, 48.9, 49.0)] == [ASKED, ASKED, LOST]


def test_an_excuse_counts_from_the_last_byte():
    """What is granted for being late is the time since something arrived, and not the silence before it."""
    heart = asked(30.0)
    heart.receive(b"data", 39.0)
    assert check(heart, 41.0, is_excused=True) is ASKED
    assert heart.next_at == 51.0


def test_what_we_send_does_not_put_the_verdict_off():
    """A peer that is gone acknowledges nothing, however much the application sends."""
    heart = asked(30.0)
    heart.moved(39.0)
    assert check(heart, 40.0) is LOST


def test_time_in_which_we_are_late_does_not_count():
    """Only what is left is granted afterwards, so that a loop that is late now and then does not save the dead."""
    heart = asked(30.0)
    assert check(heart, 36.0) is ASKED
    assert check(heart, 56.0, is_excused=True) is ASKED
    assert (heart.next_at, heart.silence(56.0)) == (60.0, 6.0)
    assert [check(heart, now) for now in (59.9, 60.0)] == [ASKED, LOST]


def test_a_first_look_that_comes_too_late_and_is_excused_begins_anew():
    """A loop that stood still for an hour has had no time to receive the answer."""
    heart = asked(30.0)
    assert check(heart, 3630.0, is_excused=True) is ASKED
    assert heart.next_at == 3640.0


def test_a_late_answer_is_still_taken_out():
    """The connection is about to be ended, and until then the application must not see what it never asked for."""
    heart = asked(30.0)
    assert check(heart, 40.0) is LOST
    assert [heart.receive(b"PONG\n", 41.0) for _ in range(2)] == [b"", b"PONG\n"]
    assert (heart.state, heart.rtt, heart.n_answered) == (LOST, None, 1)


def test_two_questions_have_two_answers():
    """Whoever sends again before the first answer came owes the application to take out both."""
    heart = asked(30.0)
    heart.sent(31.0)
    assert [heart.receive(b"PONG\n", now) for now in (32.0, 33.0, 34.0)] == [b"", b"", b"PONG\n"]
    assert (heart.n_sent, heart.n_answered, heart.rtt) == (2, 2, 2.0)


# Without an answer


def test_without_an_answer_nobody_is_lost():
    """The bytes go out once a round; whether they arrive is for TCP to say, by an error."""
    heart = asked(30.0, NOP)
    assert (heart.state, heart.next_at, check(heart, 1e6), heart.silence(1e6)) == (WAITING, 60.0, WAITING, 0.0)
    assert heart.receive(b"\xff\xf1", 31.0) == b"\xff\xf1"
    assert (heart.next_at, heart.rtt, heart.n_sent) == (61.0, None, 1)


# Functions of the application


def test_a_function_that_knows_the_answer():
    """It is shown what arrives, and the application gets all of it."""
    heart = asked(30.0, Heartbeat(b"ping", 30, 10, lambda chunk: chunk == b"pong"))
    assert [heart.receive(chunk, 31.0) for chunk in (b"data", b"pong")] == [b"data", b"pong"]
    assert (heart.state, heart.rtt, heart.n_answered) == (WAITING, 1.0, 1)


def test_a_function_that_makes_the_payload():
    """It is called for each question anew."""
    numbers = itertools.count()
    heart = Heart(Heartbeat(lambda: b"%d" % next(numbers), 30), 0.0)
    assert (due(heart, 29.0), due(heart, 30.0), due(heart, 31.0)) == (None, b"0", b"1")


@pytest.mark.parametrize("made", [b"", "PING", None, bytearray(b"PING")])
def test_a_payload_that_is_none_stops_the_heartbeat(made):
    """What cannot be sent is told once, by type and not by content; nothing is raised."""
    heart = Heart(Heartbeat(lambda: made, 30), 0.0)
    assert (due(heart, 30.0), heart.next_at, due(heart, 90.0)) == (None, None, None)
    assert str(heart.take_failure()) == f"heartbeat.payload() gave {type(made).__name__}, not bytes, 1 or more"
    assert heart.take_failure() is None


def test_a_payload_function_that_raises_stops_the_heartbeat():
    """Its exception is told and never raised; an answer that is owed from before is still taken out."""
    heart = Heart(Heartbeat(lambda: 1 // 0, 30, 10, b"PONG\n"), 0.0)
    heart.sent(1.0)
    heart.sent(1.0)
    assert heart.receive(b"PONG\n", 2.0) == b""
    assert due(heart, 60.0) is None
    assert isinstance(heart.take_failure(), ZeroDivisionError)
    assert (heart.receive(b"PONG\n", 61.0), heart.next_at, check(heart, 1e6)) == (b"", None, WAITING)


class NoBool:
    def __bool__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("judge", [lambda _: 1 // 0, lambda _: NoBool()])
def test_a_function_that_cannot_judge_stops_the_heartbeat(judge):
    """Nobody is lost for it, and all bytes are handed on."""
    heart = asked(30.0, Heartbeat(b"ping", 30, 10, judge))
    assert [heart.receive(chunk, 31.0) for chunk in (b"data", b"more")] == [b"data", b"more"]
    assert (heart.state, heart.next_at, check(heart, 1e6)) == (WAITING, None, WAITING)
    assert isinstance(heart.take_failure(), ZeroDivisionError)


class NotYet(Answers):
    """Knows the protocol, and that it has not begun."""

    is_ready = False


def test_nothing_is_asked_before_the_peer_would_understand_it():
    """A connection that is to become a WebSocket speaks HTTP first."""
    heart = Heart(Heartbeat(b"ping", 30, 10, NotYet), 0.0)
    assert (due(heart, 30.0), heart.next_at) == (None, 60.0)


# The end


def test_nobody_is_lost_after_the_end_of_the_stream():
    """A peer that has said that it sends no more cannot answer, and is not asked."""
    heart = asked(30.0)
    assert heart.receive(b"", 31.0) == b""
    assert (heart.state, heart.next_at, check(heart, 1e6), due(heart, 1e6)) == (WAITING, None, WAITING, None)


def test_a_heart_that_is_stopped_asks_no_more_and_still_takes_the_answer_out():
    """The application has ended its own sending, while an answer is on its way."""
    heart = asked(30.0)
    heart.stop()
    assert (heart.next_at, check(heart, 1e6), heart.receive(b"PONG\n", 1e6)) == (None, WAITING, b"")


# The table


def test_every_move_is_in_the_table_and_all_else_leaves_the_state():
    """Three states, a way into each of them, and none out of the last."""
    for state, what in itertools.product(BeatState, Happening):
        assert after(state, what) is MOVES.get((state, what), state)
    assert all(state is not LOST for state, _ in MOVES)
    assert {state for pair, state in MOVES.items() if pair != (state, pair[1])} == set(BeatState)


def test_the_state_cannot_be_set():
    """Only what happens moves it."""
    with pytest.raises(AttributeError):
        Heart(PING, 0.0).state = LOST


# Laws

SPANS = st.integers(0, 200).map(lambda n: n / 4)
"""Seconds that can be added and subtracted exactly."""
EXPECTATIONS = st.sampled_from([None, b"PONG\n", lambda chunk: b"PONG" in chunk])
HEARTBEATS = st.builds(Heartbeat, st.just(b"PING\n"), SPANS.filter(bool), SPANS.filter(bool), EXPECTATIONS)
STEPS = st.lists(
    st.tuples(
        SPANS,
        st.sampled_from(["moved", "look", "look", "excused", "blocked", "data", "PO", "PONG\n", "PONG\n", "stop", ""]),
    ),
    max_size=30,
)
"""What happens, and after how many seconds. "blocked": a question that is due cannot be sent."""


class Told:
    """Plays steps on a heart, and keeps account of what the laws speak of."""

    def __init__(self, heartbeat: Heartbeat, begun_at: float) -> None:
        self.heart = Heart(heartbeat, begun_at)
        self.heartbeat, self.now = heartbeat, begun_at
        self.moved_at = begun_at
        self.silent_for, self.silent_at = math.nan, math.nan
        """Seconds of silence that count, and until when they were counted."""
        self.looked_at = begun_at
        self.log: list[object] = []

    def play(self, after: float, what: str) -> None:
        self.now += after
        if what in {"look", "excused", "blocked"}:
            self.look(is_excused=what == "excused", can_send=what != "blocked")
        elif what == "moved":
            self.heart.moved(self.now)
            self.moved_at = self.now
        elif what == "stop":
            self.heart.stop()
        else:
            self.log.append(self.heart.receive(what.encode(), self.now))
            self.moved_at = self.now if what else self.moved_at
            self.silent_for, self.silent_at = (0.0, self.now) if what else (self.silent_for, self.silent_at)

    def look(self, *, is_excused: bool, can_send: bool = True) -> None:
        before, self.looked_at = self.heart.state, self.now
        if not is_excused:
            self.silent_for += self.now - self.silent_at
        self.silent_at = self.now
        state = self.heart.check(self.now, is_excused=is_excused)
        self.judge(before, state, is_excused=is_excused)
        payload = self.heart.due(self.now, is_excused=is_excused)
        if payload is not None:
            assert (state, is_excused) == (WAITING, False)
            assert self.now - self.moved_at >= self.heartbeat.every
            if can_send:
                self.send()
        self.log.append((state, payload))

    def judge(self, before: BeatState, state: BeatState, *, is_excused: bool) -> None:
        """Holds a look to the law: lost is who was asked and owes a sign of life for `timeout` seconds that count."""
        if before is not ASKED:
            assert state is before
        elif is_excused:
            assert state is ASKED
        else:
            assert (state is LOST) == (self.silent_for >= self.heartbeat.timeout)

    def send(self) -> None:
        self.heart.sent(self.now)
        self.moved_at = self.silent_at = self.now
        self.silent_for = 0.0


@given(HEARTBEATS, STEPS)
def test_lost_is_exactly_who_was_silent_for_long_enough(heartbeat, steps):
    """And nobody while we are late; a question is only due in silence, and never while one is open (see `Told`)."""
    told = Told(heartbeat, 0.0)
    for step in steps:
        told.play(*step)
        if heartbeat.expect is None:
            assert told.heart.state is WAITING


@given(HEARTBEATS, STEPS)
def test_lost_is_final(heartbeat, steps):
    """Whatever happens afterwards."""
    told = Told(heartbeat, 0.0)
    told.heart.sent(0.0)
    told.now += heartbeat.timeout
    if check(told.heart, told.now) is LOST:
        for step in steps:
            told.play(*step)
            assert (told.heart.state, told.heart.next_at) == (LOST, None)


@given(HEARTBEATS, STEPS)
def test_next_at_is_the_instant_at_which_there_is_something_to_do(heartbeat, steps):
    """It lies after the last look; before it there is nothing to do, and at it there is. Asking changes nothing."""
    told = Told(heartbeat, 0.0)
    for step in steps:
        told.play(*step)
    heart, at = told.heart, told.heart.next_at
    assert heart.next_at == at
    if at is None:
        assert heart.state is not ASKED
        assert due(heart, told.now + 1e6) is None
        return
    assert at > told.looked_at
    early = at - 1 / 1024
    if early > max(told.now, told.looked_at + TICK):
        assert (check(heart, early), due(heart, early)) == (heart.state, None)
    late = max(at, told.now)
    assert check(heart, late) is LOST or due(heart, late) == b"PING\n"


@given(HEARTBEATS, STEPS, st.integers(-(10**6), 10**6))
def test_a_shift_of_time_changes_nothing(heartbeat, steps, by):
    """Only spans matter, not when the clock began."""
    one, other = Told(heartbeat, 0.0), Told(heartbeat, float(by))
    for step in steps:
        one.play(*step)
        other.play(*step)
    assert one.log == other.log
    assert (one.heart.rtt, one.heart.n_sent) == (other.heart.rtt, other.heart.n_sent)
    at = one.heart.next_at
    assert other.heart.next_at == (None if at is None else at + by)


@given(HEARTBEATS, STEPS, SPANS)
def test_bytes_never_bring_an_end_nearer(heartbeat, steps, after):
    """Of two connections, the one that receives something more is called for no sooner, and not lost sooner."""
    one, other = Told(heartbeat, 0.0), Told(heartbeat, 0.0)
    for step in steps:
        one.play(*step)
        other.play(*step)
    one.now += after
    other.now += after
    other.heart.receive(b"data", other.now)
    if one.heart.next_at is not None and one.heart.state is other.heart.state:
        assert other.heart.next_at >= one.heart.next_at
    if other.heart.check(other.now, is_excused=False) is LOST:
        assert one.heart.check(one.now, is_excused=False) is LOST


@given(STEPS)
def test_the_stream_passes_but_for_one_answer_to_each_question(steps):
    """Whatever happens between, the application receives what was sent to it, in its order."""
    told = Told(PING, 0.0)
    arrived = b"".join(what.encode() for _, what in steps if what in {"data", "PO", "PONG\n"})
    for step in steps:
        told.play(*step)
    passed = b"".join([each for each in told.log if isinstance(each, bytes)]) + told.heart.receive(b"", told.now)
    assert told.heart.n_answered <= told.heart.n_sent
    assert len(passed) == len(arrived) - 5 * told.heart.n_answered
    pieces = iter(arrived.split(b"PONG\n"))
    assert passed.replace(b"PONG\n", b"") == b"".join(pieces)
