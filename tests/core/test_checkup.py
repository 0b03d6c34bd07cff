"""What the doctor makes of values: each rule hit and just not hit, and no advice without need."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.checkup import ENOUGH_DESCRIPTORS, SYSCTLS, Door, Finding, Verdict, judge_door, judge_limit
from sockguard._core.checkup import judge_sysctl as judge

OK, NOTE, BAD = Verdict.OK, Verdict.NOTE, Verdict.BAD


@pytest.mark.parametrize(
    ("name", "good", "hit", "verdict"),
    [
        ("net.ipv4.tcp_keepalive_time", 600, 601, NOTE),
        ("net.ipv4.tcp_keepalive_intvl", 75, 76, NOTE),
        ("net.ipv4.tcp_keepalive_probes", 9, 10, NOTE),
        ("net.ipv4.tcp_fin_timeout", 60, 61, NOTE),
        ("net.core.somaxconn", 1024, 1023, NOTE),
        ("net.ipv4.tcp_max_syn_backlog", 256, 255, NOTE),
        ("net.ipv4.tcp_abort_on_overflow", 0, 1, NOTE),
        ("net.ipv4.tcp_tw_reuse", 1, 0, NOTE),
        ("net.ipv4.tcp_tw_recycle", 0, 1, BAD),
        ("net.ipv4.tcp_max_tw_buckets", 4096, 4095, NOTE),
    ],
)
def test_sysctl_rule_is_hit_and_just_not_hit(name: str, good: int, hit: int, verdict: Verdict) -> None:
    """At the limit all is well; one beyond it is told, with reason and remedy; further off in either direction too."""
    rule, step = SYSCTLS[name], hit - good
    assert judge(name, good) == Finding(name, str(good), OK, rule.reason, "")
    assert judge(name, hit) == Finding(name, str(hit), verdict, rule.reason, rule.remedy)
    assert judge(name, good - step * 10**6).verdict is OK
    assert judge(name, hit + step * 10**6).verdict is verdict


def test_every_sysctl_rule_has_a_case_above() -> None:
    """A new rule comes with its limits."""
    (cases,) = (mark.args[1] for mark in test_sysctl_rule_is_hit_and_just_not_hit.pytestmark)
    assert [name for name, *_ in cases] == list(SYSCTLS)


@pytest.mark.parametrize("name", [name for name in SYSCTLS if name != "net.ipv4.tcp_tw_recycle"])
def test_only_what_breaks_connections_is_bad(name: str) -> None:
    """All other settings are a matter of taste: whatever their value, they cost no exit status."""
    assert BAD not in {judge(name, value).verdict for value in (-1, 0, 1, 2**31 - 1)}


def test_defaults_of_linux_are_not_complained_about_but_for_keepalive() -> None:
    """On a fresh host of 6.18 the doctor has one thing to say: two hours are a long time."""
    defaults = {
        "net.ipv4.tcp_keepalive_time": 7200,
        "net.ipv4.tcp_keepalive_intvl": 75,
        "net.ipv4.tcp_keepalive_probes": 9,
        "net.ipv4.tcp_fin_timeout": 60,
        "net.core.somaxconn": 4096,
        "net.ipv4.tcp_max_syn_backlog": 1024,
        "net.ipv4.tcp_abort_on_overflow": 0,
        "net.ipv4.tcp_tw_reuse": 2,
        "net.ipv4.tcp_max_tw_buckets": 65536,
    }
    found = {name: judge(name, value).verdict for name, value in defaults.items()}
    assert [name for name, verdict in found.items() if verdict is not OK] == ["net.ipv4.tcp_keepalive_time"]


# Descriptors


@pytest.mark.parametrize(
    ("used", "soft", "value", "verdict"),
    [
        (8000, 10000, "8000 of 10000", BAD),
        (7999, 10000, "7999 of 10000", OK),
        (10000, 10000, "10000 of 10000", BAD),
        (3, ENOUGH_DESCRIPTORS, f"3 of {ENOUGH_DESCRIPTORS}", OK),
        (3, ENOUGH_DESCRIPTORS - 1, f"3 of {ENOUGH_DESCRIPTORS - 1}", NOTE),
        (80, 100, "80 of 100", BAD),
        (79, 100, "79 of 100", NOTE),
        (0, 0, "0 of 0", BAD),
        (10**6, None, "1000000 of unlimited", OK),
        (None, None, "? of unlimited", OK),
        (None, 10000, "? of 10000", OK),
        (None, 100, "? of 100", NOTE),
    ],
)
def test_descriptor_budget(used: int | None, soft: int | None, value: str, verdict: Verdict) -> None:
    """Four fifths used is bad, a small limit is worth a note, and what is not known is not guessed."""
    finding = judge_limit("descriptors", used, soft, None)
    assert (finding.name, finding.value, finding.verdict) == ("descriptors", value, verdict)


@pytest.mark.parametrize(
    ("hard", "told"),
    [(4096, True), (1025, True), (1024, False), (512, False), (None, False)],
)
def test_room_up_to_the_hard_limit_is_told(hard: int | None, told: bool) -> None:
    """How far the limit may be raised without root is said where there is room at all, and known."""
    remedy = judge_limit("descriptors", 3, 1024, hard).remedy
    assert (f"(up to {hard} without root)" in remedy) is told
    assert remedy.startswith("Raise it")
    assert ("(" in remedy) is told


def test_nearly_full_table_says_what_comes_of_it() -> None:
    """The reason names the error that the program will meet, and the remedy how to find the leaks."""
    finding = judge_limit("descriptors", 90, 100, 100)
    assert "EMFILE" in finding.reason
    assert "sockguard report" in finding.remedy


# Doors

CLOSED = Door("setns", False, "ages in containers", "Operation not permitted", "Run as root.")


def test_open_door_says_what_it_is_for() -> None:
    """Nothing is to be done about it."""
    opened = CLOSED._replace(is_open=True, reason="")
    assert judge_door(opened) == Finding("setns", "open", OK, "For ages in containers.", "")


def test_closed_door_says_what_is_lost_and_why() -> None:
    """It is a note and nothing bad: sockguard works without it, but sees or does less."""
    reason = "It is for ages in containers, but Operation not permitted."
    assert judge_door(CLOSED) == Finding("setns", "closed", NOTE, reason, "Run as root.")


# The law of all of them

COUNTS = st.none() | st.integers(0, 2**31)
WORDS = st.text(min_size=1)
FINDINGS = st.one_of(
    st.builds(judge, st.sampled_from(list(SYSCTLS)), st.integers(-1, 2**31)),
    st.builds(judge_limit, WORDS, COUNTS, COUNTS, COUNTS),
    st.builds(judge_door, st.builds(Door, WORDS, st.booleans(), WORDS, WORDS, WORDS)),
)


@given(FINDINGS)
def test_a_remedy_is_there_exactly_where_something_is_to_be_done(finding: Finding) -> None:
    """Whatever was found: it has name, value and reason, and a remedy unless it is ok."""
    assert finding.name and finding.value and finding.reason
    assert bool(finding.remedy) is (finding.verdict is not OK)
