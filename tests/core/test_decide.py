"""What happens to a connection: each clause and each rung by example, and the laws of the whole."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.connection import Activity, Connection, Demand, Step, begin
from sockguard._core.decide import (
    EOF_LOOKS_EVERY,
    LOOKS_PER_TIMEOUT,
    OWNER_PATIENCE,
    READING_TIME,
    TIMEOUTS,
    Action,
    Reason,
    Verdict,
    decide,
    first_look_after,
    next_at,
)
from sockguard._core.policy import Policy
from strategies import DYADIC, LIVE_STATES, Moves, connections, looked_at_again, moves_within, policies

ESTABLISHED, CLOSE, CLOSE_WAIT, LAST_ACK = 1, 7, 8, 9
case = pytest.param
OPENED, NOW = 1000.0, 1100.0
INSTANT = 1 / 64
"""Less than any time-out here, and exact."""
POLICY = Policy(fin_timeout=60.0)


def connection(state: int = ESTABLISHED, **fields: object) -> Connection:
    """One that was opened at OPENED, has not moved since, and was looked at NOW."""
    activity = Activity(state, received=0, acked=0, unread=0, unsent=0, since_received=100.0, since_heard=100.0)
    c = begin(0, activity, opened_at=OPENED, now=NOW, is_server=True)
    if state in (CLOSE, CLOSE_WAIT):
        c = c._replace(hung_up_at=OPENED)
    return c._replace(**fields)


def is_live(**fields: object) -> Connection:
    """One that has received and sent something, so that its first byte is no question."""
    return connection(**({"received": 10, "acked": 10} | fields))


# Each clause: the instant from which it counts, and when it does not apply

CLAUSES = [
    case(Policy(), connection(CLOSE_WAIT), Reason.HALF_CLOSED, OPENED, id="half-closed"),
    case(Policy(), connection(CLOSE_WAIT, hung_up_at=1050.0), Reason.HALF_CLOSED, 1050.0, id="hung up later"),
    case(Policy(), connection(CLOSE_WAIT, moved_at=1050.0), Reason.HALF_CLOSED, 1050.0, id="moved later"),
    case(Policy(half_close="close"), connection(CLOSE_WAIT, unread=1), Reason.HALF_CLOSED, OPENED, id="strict"),
    case(Policy(), connection(CLOSE, hung_up_at=1050.0), Reason.DEAD, 1050.0, id="dead"),
    case(Policy(half_close="allow"), connection(CLOSE, moved_at=1050.0), Reason.DEAD, 1050.0, id="dead, moved"),
    case(Policy(first_byte_timeout=5), connection(), Reason.FIRST_BYTE, OPENED, id="first byte"),
    case(Policy(idle_timeout=5), is_live(moved_at=1050.0), Reason.IDLE, 1050.0, id="idle since it moved"),
    case(Policy(idle_timeout=5), is_live(received_at=1050.0), Reason.IDLE, 1050.0, id="idle since it received"),
    case(Policy(read_idle_timeout=5), is_live(moved_at=1050.0), Reason.READ_IDLE, OPENED, id="receives nothing"),
    case(Policy(read_idle_timeout=5), is_live(unread_at=1050.0), Reason.READ_IDLE, 1050.0, id="window was full"),
    case(
        Policy(write_stall_timeout=5), is_live(unsent=1, stalled_at=1050.0), Reason.WRITE_STALLED, 1050.0, id="stalled"
    ),
    case(
        Policy(min_receive_rate=500), is_live(received=5000, received_at=1021.0, trickle=(1001.0, 4000)),
        Reason.RECEIVE_RATE, 1001.0, id="trickles",
    ),
    case(Policy(max_lifetime=5), is_live(), Reason.LIFETIME, OPENED, id="old"),
    case(Policy(max_lifetime=50, max_lifetime_jitter=None), is_live(cookie=1), Reason.LIFETIME, OPENED, id="no jitter"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "c", "reason", "since"), CLAUSES)
def test_clause_falls_due_exactly_when_its_limit_is_over(
    policy: Policy, c: Connection, reason: Reason, since: float
) -> None:
    """Not an instant sooner; and the verdict carries the numbers by which that can be checked."""
    (timeout,) = [timeout for timeout in TIMEOUTS if timeout.reason is reason]
    limit = getattr(policy, timeout.setting)
    if reason is not Reason.RECEIVE_RATE:  # whose grace is over when it is measured
        assert decide(c, policy, since + limit - INSTANT).action is Action.KEEP
        assert decide(c, policy, since + limit - INSTANT).reason is None
    verdict = decide(c, policy, since + limit + 2.0)
    assert verdict[1:] == (reason, timeout.setting, limit, limit + 2.0)
    assert decide(c, policy, since + limit).reason is reason


def test_every_clause_has_an_example() -> None:
    """None is missing above."""
    assert {parameters.values[2] for parameters in CLAUSES} == {timeout.reason for timeout in TIMEOUTS}
    of_wrappers = {Reason.FAILED, Reason.LEFT_OPEN, Reason.PRESSURE, Reason.CLOSE_STALLED}
    others = {Reason.DEADLINE, Reason.HEARTBEAT} | of_wrappers
    assert set(Reason) - {timeout.reason for timeout in TIMEOUTS} == others


DEMAND = Demand(Reason.DEADLINE, 1001.0, 5.0)


def test_what_the_program_demands_falls_due_exactly_then() -> None:
    """Bytes that move do not put it off, and the verdict names it with its numbers."""
    c = is_live(demand=DEMAND, moved_at=1005.0, received_at=1005.0)
    assert decide(c, Policy(), DEMAND.due_at - INSTANT).action is Action.KEEP
    assert decide(c, Policy(), DEMAND.due_at).action is Action.SHUT_DOWN
    assert decide(c, Policy(), 1008.0)[1:] == (Reason.DEADLINE, None, 5.0, 7.0)
    assert next_at(c, Policy(), 1002.0) == DEMAND.due_at
    heartbeat = DEMAND._replace(reason=Reason.HEARTBEAT)
    assert decide(c._replace(demand=heartbeat), Policy(), 1008.0)[1:3] == (Reason.HEARTBEAT, "heartbeat.timeout")


def test_a_connection_that_is_over_is_ended_for_no_demand() -> None:
    """It has a reason of its own."""
    c = is_live(demand=DEMAND, state=CLOSE, hung_up_at=1002.0)
    assert decide(c, Policy(), 1010.0).reason is None


@pytest.mark.parametrize(
    "fields", [{"idle_timeout": 5}, {"read_idle_timeout": 5}, {"first_byte_timeout": 5}, {"max_lifetime": 5}]
)
def test_a_connection_that_is_expected_to_live_long_may_be_silent_and_old(fields: dict[str, float]) -> None:
    """And is not looked at for it; but what its peer does is judged as ever."""
    c = is_live(is_server=True, received=0)
    assert decide(c, Policy(**fields), 5000.0).action is not Action.KEEP
    assert decide(c._replace(is_expected=True), Policy(**fields), 5000.0).action is Action.KEEP
    assert next_at(c._replace(is_expected=True), Policy(**fields), 5000.0) is None
    gone = c._replace(is_expected=True, state=CLOSE_WAIT, hung_up_at=1002.0)
    assert decide(gone, Policy(**fields), 5000.0).reason is Reason.HALF_CLOSED


def test_table_in_the_documentation_is_that_of_the_clauses() -> None:
    """docs/explanation/enforcement.md lists reasons and settings in the order in which they are asked."""
    page = (Path(__file__).parents[2] / "docs/explanation/enforcement.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE)
    assert rows == [(timeout.reason, timeout.setting) for timeout in TIMEOUTS]


@pytest.mark.parametrize(
    ("policy", "c"),
    [
        case(Policy(), is_live(), id="nothing is limited"),
        case(Policy(half_close="allow"), connection(CLOSE_WAIT), id="allowed to be half-closed"),
        case(Policy(fin_timeout=None), connection(CLOSE_WAIT), id="for ever"),
        case(Policy(fin_timeout=None, half_close="close"), connection(CLOSE_WAIT, unread=1), id="unread, for ever"),
        case(Policy(fin_timeout=None), connection(CLOSE), id="dead for ever"),
        case(POLICY, connection(CLOSE, unread=1), id="dead, and there is a second time-out for reading"),
        case(Policy(half_close="allow"), connection(CLOSE, unread=1), id="closed by both, and not read yet"),
        case(Policy(), connection(LAST_ACK, hung_up_at=OPENED), id="closed by its owner, not acknowledged"),
        case(Policy(first_byte_timeout=5), connection(received=1), id="first byte came"),
        case(Policy(first_byte_timeout=5), connection(is_server=False), id="we connected"),
        case(Policy(read_idle_timeout=5), is_live(unread=1), id="our window may be full"),
        case(Policy(write_stall_timeout=5), is_live(stalled_at=OPENED), id="nothing is queued"),
        case(Policy(min_receive_rate=500), is_live(), id="nothing arrives without an answer"),
        case(
            Policy(min_receive_rate=500), is_live(received_at=1020.9, trickle=(1001.0, 9)), id="came within the grace"
        ),
        case(
            Policy(min_receive_rate=500), is_live(received=14000, received_at=1021.0, trickle=(1001.0, 4000)),
            id="came fast enough",
        ),
        case(
            Policy(min_receive_rate=500), is_live(received_at=1021.0, trickle=(1001.0, 9), hung_up_at=1050.0),
            id="its last byte was the FIN",
        ),
        case(Policy(receive_rate_grace=1), is_live(received_at=1021.0, trickle=(1001.0, 9)), id="no rate is asked"),
        case(Policy(max_lifetime=100), is_live(cookie=1, opened_at=1000.0), id="lives longer by its jitter"),
    ],
)  # fmt: skip
def test_clause_that_does_not_apply(policy: Policy, c: Connection) -> None:
    """However long nothing moves, as long as nothing is limited that does not move."""
    assert decide(c, policy, NOW) == Verdict(Action.KEEP)


@pytest.mark.parametrize("setting", sorted({timeout.setting for timeout in TIMEOUTS} - {"fin_timeout"}))
def test_nothing_but_its_end_is_left_of_a_dead_connection(setting: str) -> None:
    """What is over cannot be idle, stalled or too old."""
    c = connection(CLOSE, unsent=1, stalled_at=OPENED, received_at=1050.0, trickle=(OPENED, 0))
    policy = Policy(fin_timeout=None, min_receive_rate=1e9, **{setting: 1.0})
    assert decide(c, policy, NOW) == Verdict(Action.KEEP)


@pytest.mark.parametrize("fin_timeout", [None, 60.0])
def test_strict_rule_ends_a_connection_as_soon_as_its_eof_is_read(fin_timeout: float | None) -> None:
    """`half_close="close"` waits for no time-out, unless something is unread, the EOF or bytes before it."""
    policy = Policy(half_close="close", fin_timeout=fin_timeout)
    c = connection(CLOSE_WAIT, hung_up_at=NOW, moved_at=NOW)
    assert decide(c, policy, NOW + 0.5) == Verdict(Action.SHUT_DOWN, Reason.HALF_CLOSED, "half_close", None, 0.5)
    for unread in ({"eof_unread": True}, {"unread": 1}):
        assert decide(c._replace(**unread), policy, NOW + 0.5) == Verdict(Action.KEEP)


def test_lifetimes_of_neighbours_end_apart() -> None:
    """Connections that came together are ended one after the other, each after its time, within the jitter."""
    policy = Policy(max_lifetime=100.0, max_lifetime_jitter=0.1)
    ends = sorted(next_at(is_live(cookie=cookie), policy, NOW - 50) or 0.0 for cookie in range(1000, 1100))
    assert ends[0] >= OPENED + 100 and ends[-1] <= OPENED + 110
    assert max(b - a for a, b in pairwise(ends)) < 0.5


# Each rung of the ladder


@pytest.mark.parametrize(
    ("c", "action"),
    [
        case(connection(CLOSE_WAIT), Action.SHUT_DOWN, id="no loop to ask"),
        case(connection(CLOSE_WAIT, has_loop=True), Action.ASK_OWNER, id="a loop to ask"),
        case(connection(CLOSE_WAIT, unread=1), Action.SEND_FIN, id="unread"),
        case(connection(CLOSE_WAIT, unread=1, has_loop=True), Action.SEND_FIN, id="unread: abort() would lose it"),
        case(connection(CLOSE), Action.KEEP, id="dead: there is nothing to end"),
        case(connection(CLOSE, has_loop=True), Action.ASK_OWNER, id="dead: the descriptor is the loop's to close"),
        case(
            connection(CLOSE, has_loop=True, unread=1, hung_up_at=NOW - 120, moved_at=NOW - 120), Action.ASK_OWNER,
            id="dead, unread, and nobody has read for a second time-out: no FIN can go out",
        ),
    ],
)  # fmt: skip
def test_first_step(c: Connection, action: Action) -> None:
    """It is the gentlest that can end the connection."""
    verdict = decide(c, POLICY, NOW)
    assert verdict.action is action
    assert verdict.reason in (Reason.HALF_CLOSED, Reason.DEAD)


@pytest.mark.parametrize(
    ("fields", "policy", "action", "due_at"),
    [
        case({"step": Step.FIN_SENT}, POLICY, Action.SHUT_DOWN, NOW + 60, id="FIN, a time-out for reading"),
        case({"step": Step.FIN_SENT, "has_loop": True}, POLICY, Action.ASK_OWNER, NOW + 60, id="then the loop"),
        case({"step": Step.FIN_SENT, "moved_at": 1150.0}, POLICY, Action.SHUT_DOWN, 1210.0, id="it is read"),
        case(
            {"step": Step.FIN_SENT}, Policy(fin_timeout=None), Action.SHUT_DOWN, NOW + READING_TIME, id="no fin_timeout"
        ),
        case(
            {"step": Step.FIN_SENT, "moved_at": 1150.0, "hung_up_at": None, "state": 5}, POLICY, Action.SHUT_DOWN,
            NOW + 60, id="an upload has no end: its reading is limited",
        ),
        case({"step": Step.OWNER_ASKED}, POLICY, Action.SHUT_DOWN, NOW + OWNER_PATIENCE, id="the loop is blocked"),
        case({"step": Step.OWNER_ASKED, "state": CLOSE}, POLICY, Action.KEEP, None, id="asked, and over"),
        case({"step": Step.SHUT_DOWN}, POLICY, Action.KEEP, None, id="shut down: nothing is left to do"),
    ],
)  # fmt: skip
def test_further_steps(fields: dict[str, object], policy: Policy, action: Action, due_at: float | None) -> None:
    """Each is taken only if the one before has not ended it, and has had its time."""
    c = connection(CLOSE_WAIT, stepped_at=NOW)._replace(**fields)
    assert next_at(c, policy, NOW) == due_at
    if due_at is None:
        assert decide(c, policy, NOW + 1e6).action is Action.KEEP
    else:
        assert decide(c, policy, due_at - INSTANT) == Verdict(Action.KEEP)
        assert decide(c, policy, due_at).action is action


def test_what_dies_of_our_own_step_is_no_second_reason() -> None:
    """A connection that is over because the guard sent a FIN was not found dead."""
    c = connection(CLOSE, step=Step.FIN_SENT, stepped_at=OPENED, has_loop=True)
    assert decide(c, POLICY, NOW) == Verdict(Action.ASK_OWNER)


# When to look again


@pytest.mark.parametrize(
    ("policy", "c", "seconds"),
    [
        case(Policy(), is_live(), None, id="nothing can come due"),
        case(Policy(fin_timeout=None), connection(CLOSE_WAIT, is_quiet=True), None, id="hung up, for ever"),
        case(Policy(), connection(CLOSE_WAIT, hung_up_at=NOW, is_quiet=True), 60.0, id="quiet: at its end"),
        case(
            Policy(), connection(CLOSE_WAIT, hung_up_at=NOW, is_quiet=False), 60.0 / LOOKS_PER_TIMEOUT,
            id="moving: often",
        ),
        case(Policy(), connection(CLOSE, is_quiet=True), 60.0, id="dead for long: no sooner than it may change"),
        case(Policy(idle_timeout=130.0), is_live(is_quiet=True), 30.0, id="the rest of its time"),
        case(Policy(first_byte_timeout=7.0), is_live(is_quiet=True), 7.0, id="a clause that does not apply"),
        case(Policy(receive_rate_grace=5.0), is_live(is_quiet=False), None, id="no rate is asked"),
        case(Policy(min_receive_rate=1.0), is_live(is_quiet=True), 20.0, id="bytes may begin to trickle"),
        case(
            Policy(half_close="close"), connection(CLOSE_WAIT, eof_unread=True, is_quiet=True), EOF_LOOKS_EVERY,
            id="nobody tells when the EOF is read",
        ),
    ],
)  # fmt: skip
def test_when_to_look_again(policy: Policy, c: Connection, seconds: float | None) -> None:
    """When a clause falls due; sooner while bytes move, as nobody tells when they were read."""
    assert next_at(c, policy, NOW) == (None if seconds is None else NOW + seconds)


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        case(Policy(), None, id="only what hangs up"),
        case(Policy(half_close="close"), None, id="only what hangs up, strictly"),
        case(Policy(idle_timeout=16.0), 2.0, id="one limit"),
        case(Policy(idle_timeout=16.0, first_byte_timeout=8.0, max_lifetime=1e6), 1.0, id="the shortest"),
        case(Policy(min_receive_rate=500.0, receive_rate_grace=4.0), 0.5, id="a rate"),
        case(Policy(receive_rate_grace=4.0), None, id="a grace for no rate"),
    ],
)
def test_when_to_look_first(policy: Policy, seconds: float | None) -> None:
    """Soon enough for every clause; never, where the kernel tells of all that can come due."""
    assert first_look_after(policy) == seconds


# Laws

ANY_STEP = st.sampled_from(Step)
FINITE = st.floats(-1e12, 1e12)
ANY_CONNECTIONS = st.builds(
    Connection,
    *[st.integers(0, 2**64 - 1), st.booleans(), st.booleans(), FINITE, FINITE, st.integers(0, 255)],
    *[st.integers(0, 2**64 - 1)] * 4,
    *[st.booleans(), FINITE, FINITE, FINITE, FINITE, st.none() | FINITE, st.booleans()],
    *[st.none() | st.tuples(FINITE, st.integers(0, 2**64 - 1)), ANY_STEP, FINITE],
)


@pytest.mark.slow
@given(ANY_CONNECTIONS | connections(ANY_STEP), policies(), FINITE)
def test_every_connection_gets_a_verdict(c: Connection, policy: Policy, now: float) -> None:
    """Also one that cannot be: no exception, and the next look lies in the future."""
    verdict = decide(c, policy, now)
    assert isinstance(verdict.action, Action)
    assert verdict.action is Action.KEEP or verdict.reason is not None or c.step is not Step.NONE
    at = next_at(c, policy, now)
    assert at is None or now < at < math.inf


@pytest.mark.slow
@given(connections(ANY_STEP), policies(), DYADIC, st.integers(-(2**14), 2**14))
def test_shift_of_time_changes_nothing(c: Connection, policy: Policy, seconds: float, shift: int) -> None:
    """The clock may have begun at any instant: only differences count."""
    now = c.looked_at + seconds
    later = c._replace(
        **{name: getattr(c, name) + shift for name in c._fields if name.endswith("_at") and name != "hung_up_at"},
        hung_up_at=None if c.hung_up_at is None else c.hung_up_at + shift,
        trickle=c.trickle and (c.trickle[0] + shift, c.trickle[1]),
    )
    here, there = decide(c, policy, now), decide(later, policy, now + shift)
    assert there[:4] == here[:4]
    assert there.seconds == pytest.approx(here.seconds)  # a jitter is no binary fraction
    at = next_at(c, policy, now)
    assert next_at(later, policy, now + shift) == (None if at is None else pytest.approx(at + shift))


@pytest.mark.slow
@given(connections(ANY_STEP), policies(), DYADIC)
def test_asking_when_to_look_again_changes_nothing(c: Connection, policy: Policy, seconds: float) -> None:
    """The same question has the same answer, and so has the one for a verdict."""
    now = c.looked_at + seconds
    verdict = decide(c, policy, now)
    assert next_at(c, policy, now) == next_at(c, policy, now)
    assert decide(c, policy, now) == verdict


@pytest.mark.slow
@given(connections(ANY_STEP), policies(), st.floats(0.0, 1.0, exclude_max=True), st.integers(-6, 30))
def test_nothing_falls_due_before_the_next_look(c: Connection, policy: Policy, part: float, power: int) -> None:
    """As long as nothing moves: what is kept now is kept until then, for ever if it is not looked at again."""
    now = c.looked_at
    at = next_at(c, policy, now)
    if decide(c, policy, now).action is not Action.KEEP:
        return
    then = now + 2.0**power if at is None else now + (at - now) * part
    if at is None or then < at:
        assert decide(c, policy, then).action is Action.KEEP


@pytest.mark.slow
@given(policies(), st.booleans(), st.floats(0.0, 1.0), st.integers(-3, 20))
def test_nothing_falls_due_before_the_first_look(policy: Policy, is_server: bool, part: float, power: int) -> None:
    """A connection that is open, and of which nothing is known yet, can wait for that long."""
    after = first_look_after(policy)
    now = OPENED + (2.0**power if after is None else after * part)
    c = connection(is_server=is_server, looked_at=now)
    assert decide(c, policy, now) == Verdict(Action.KEEP)


@pytest.mark.slow
@given(connections(ANY_STEP), policies(), DYADIC, DYADIC)
def test_once_due_stays_due(c: Connection, policy: Policy, seconds: float, more: float) -> None:
    """A guard that comes late, and finds that nothing moved, comes to the same end."""
    verdict = decide(c, policy, c.looked_at + seconds)
    again = looked_at_again(c, Moves(seconds + more, eof_unread=c.eof_unread))
    later = decide(again, policy, again.looked_at)
    if verdict != Verdict(Action.KEEP):
        assert later.action is verdict.action
        assert later.reason is not None or verdict.reason is None


def _due_at(c: Connection, policy: Policy) -> dict[Reason, float]:
    """When each clause ends the connection, if nothing moves; it need not apply, or be wanted."""
    dues = {}
    for timeout in TIMEOUTS:
        since, limit = timeout.since(c, policy), getattr(policy, timeout.setting)
        dues[timeout.reason] = math.inf if since is None or limit is None else since + limit
    return dues


@pytest.mark.slow
@given(connections(ANY_STEP), policies(), moves_within())
def test_activity_never_brings_a_close_nearer(c: Connection, policy: Policy, moves: Moves) -> None:
    """What moved since the last look puts no clause sooner than stillness would, or gives it all its time anew.

    But for `min_receive_rate`, of course: it measures bytes that arrive, so none is too slow before it came.
    """
    still = looked_at_again(c, Moves(moves.seconds))
    moved = looked_at_again(c, moves)
    before, after = _due_at(still, policy), _due_at(moved, policy)
    for timeout in TIMEOUTS:
        if timeout.reason is not Reason.RECEIVE_RATE:
            whole = moved.looked_at + (getattr(policy, timeout.setting) or 0.0)
            assert after[timeout.reason] >= min(before[timeout.reason], whole), timeout.reason
    if c.step is not Step.NONE and decide(still, policy, still.looked_at).action is Action.KEEP:
        assert decide(moved, policy, moved.looked_at).action is Action.KEEP


STEPS = {Action.SEND_FIN: Step.FIN_SENT, Action.ASK_OWNER: Step.OWNER_ASKED, Action.SHUT_DOWN: Step.SHUT_DOWN}


@pytest.mark.slow
@given(connections(), policies(), st.lists(moves_within(st.none() | LIVE_STATES), max_size=12))
def test_steps_only_go_up(c: Connection, policy: Policy, history: list[Moves]) -> None:
    """Whatever happens meanwhile: no step is taken twice, none after a harder one, and none after the last."""
    taken: list[Step] = []
    for moves in history:
        c = looked_at_again(c, moves)
        action = decide(c, policy, c.looked_at).action
        if action is not Action.KEEP:
            taken.append(STEPS[action])
            c = c._replace(step=STEPS[action], stepped_at=c.looked_at)
    assert taken == sorted(set(taken))


@pytest.mark.slow
@given(connections(ANY_STEP), policies(half_close=st.just("allow")), DYADIC)
def test_nothing_is_ended_for_a_fin_that_is_allowed(c: Connection, policy: Policy, seconds: float) -> None:
    """Under `half_close="allow"` a half-closed connection is judged as any other is."""
    assert decide(c, policy, c.looked_at + seconds).reason is not Reason.HALF_CLOSED


@pytest.mark.slow
@given(connections(ANY_STEP), policies(half_close=st.just("drain"), fin_timeout=st.just(60.0)), DYADIC)
def test_connection_that_moved_lately_is_never_ended_for_its_fin(c: Connection, policy: Policy, seconds: float) -> None:
    """Within `fin_timeout` of a byte that was read or acknowledged, or of the FIN, it lives."""
    now = c.looked_at + seconds
    if now - max(c.moved_at, c.hung_up_at or 0.0) < 60.0:
        assert decide(c, policy, now).reason is not Reason.HALF_CLOSED
