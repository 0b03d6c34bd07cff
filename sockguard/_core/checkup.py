"""What `sockguard doctor` makes of a host's settings: value, verdict, reason, remedy."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

__all__ = ["SYSCTLS", "Door", "Finding", "Verdict", "judge_door", "judge_limit", "judge_sysctl"]


class Verdict(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    NOTE = "note"
    """Harmless by itself; worth knowing when connections pile up."""
    BAD = "bad"


class Finding(NamedTuple):
    """One line of the doctor's report."""

    name: str
    value: str
    verdict: Verdict
    reason: str
    remedy: str
    """Empty where nothing is to be done."""


class Door(NamedTuple):
    """A way into the kernel, and whether it is open here."""

    name: str
    is_open: bool
    serves: str
    """What sockguard uses it for."""
    reason: str
    """Why it is closed; empty if open."""
    remedy: str


class SysctlRule(NamedTuple):
    """How to judge one sysctl (tcp(7), Documentation/networking/ip-sysctl.rst)."""

    verdict: Callable[[int], Verdict]
    reason: str
    remedy: str


def _at_most(limit: int, otherwise: Verdict) -> Callable[[int], Verdict]:
    return lambda value: Verdict.OK if value <= limit else otherwise


def _at_least(limit: int, otherwise: Verdict) -> Callable[[int], Verdict]:
    return lambda value: Verdict.OK if value >= limit else otherwise


SYSCTLS: Mapping[str, SysctlRule] = {
    "net.ipv4.tcp_keepalive_time": SysctlRule(
        _at_most(600, Verdict.NOTE),
        "Seconds of silence before the first probe, for sockets that ask for keepalive; "
        "at the default of 7200 a dead peer is kept for 2 h.",
        "Leave it, and set TCP_KEEPIDLE on the sockets of the service: the sysctl changes every program.",
    ),
    "net.ipv4.tcp_keepalive_intvl": SysctlRule(
        _at_most(75, Verdict.NOTE),
        "Seconds between two probes.",
        "Set TCP_KEEPINTVL per socket.",
    ),
    "net.ipv4.tcp_keepalive_probes": SysctlRule(
        _at_most(9, Verdict.NOTE),
        "Unanswered probes before the connection is given up.",
        "Set TCP_KEEPCNT per socket.",
    ),
    "net.ipv4.tcp_fin_timeout": SysctlRule(
        _at_most(60, Verdict.NOTE),
        "Seconds that an orphan of ours stays in FIN_WAIT2. It does nothing for CLOSE_WAIT, which no sysctl ends.",
        "Back to 60 or less.",
    ),
    "net.core.somaxconn": SysctlRule(
        _at_least(1024, Verdict.NOTE),
        "Upper limit of every accept queue, whatever a program passes to listen().",
        "Raise it to 4096 if queues overflow. A CLOSE_WAIT count that equals it means that nobody accepts.",
    ),
    "net.ipv4.tcp_max_syn_backlog": SysctlRule(
        _at_least(256, Verdict.NOTE),
        "Half-open connections remembered per listener.",
        "Raise it together with net.core.somaxconn.",
    ),
    "net.ipv4.tcp_abort_on_overflow": SysctlRule(
        _at_most(0, Verdict.NOTE),
        "If 1, a full accept queue answers with a reset instead of letting the client try again.",
        "0, unless clients must fail fast.",
    ),
    "net.ipv4.tcp_tw_reuse": SysctlRule(
        _at_least(1, Verdict.NOTE),
        "Lets connect() take a port over from TIME_WAIT: 1 everywhere, 2 on loopback only. It matters to clients only.",
        "1 if this host runs out of client ports; better, keep HTTP connections alive.",
    ),
    "net.ipv4.tcp_tw_recycle": SysctlRule(
        _at_most(0, Verdict.BAD),
        "Breaks clients behind NAT; removed in Linux 4.12.",
        "Set it to 0.",
    ),
    "net.ipv4.tcp_max_tw_buckets": SysctlRule(
        _at_least(4096, Verdict.NOTE),
        "More sockets in TIME_WAIT than this are dropped at once, which gives up what TIME_WAIT protects from.",
        "Back to its default; TIME_WAIT is harmless, CLOSE_WAIT is the bug.",
    ),
}


def judge_sysctl(name: str, value: int) -> Finding:
    """Judges one of `SYSCTLS`."""
    rule = SYSCTLS[name]
    verdict = rule.verdict(value)
    return Finding(name, str(value), verdict, rule.reason, "" if verdict is Verdict.OK else rule.remedy)


ENOUGH_DESCRIPTORS = 4096
"""A soft limit below it is met by a few thousand leaks within hours; systemd's default is 1024."""
NEARLY_FULL = 0.8


def judge_limit(name: str, used: int | None, soft: int | None, hard: int | None) -> Finding:
    """Judges the descriptor budget of a process.

    Args:
        name: What to call it in the report.
        used: Open descriptors; None if not visible.
        soft: RLIMIT_NOFILE in force; None if unlimited.
        hard: How far the process may raise it by itself; None if unlimited or not known.
    """
    value = f"{'?' if used is None else used} of {'unlimited' if soft is None else soft}"
    if soft is not None and used is not None and used >= NEARLY_FULL * soft:
        reason = "Nearly used up: accept() will fail with EMFILE."
        return Finding(
            name, value, Verdict.BAD, reason, "sockguard report --pid PID shows what leaks; raise the limit meanwhile."
        )
    if soft is not None and soft < ENOUGH_DESCRIPTORS:
        reason = "A server meets this limit soon, with or without leaks."
        room = "" if hard is None or hard <= soft else f" (up to {hard} without root)"
        return Finding(name, value, Verdict.NOTE, reason, f"Raise it{room}: ulimit -n, LimitNOFILE= in systemd.")
    return Finding(name, value, Verdict.OK, "Open descriptors and the soft limit, RLIMIT_NOFILE.", "")


def judge_door(door: Door) -> Finding:
    """Judges a way into the kernel: a closed one costs a part of what can be seen or done."""
    if door.is_open:
        return Finding(door.name, "open", Verdict.OK, f"For {door.serves}.", "")
    return Finding(door.name, "closed", Verdict.NOTE, f"It is for {door.serves}, but {door.reason}.", door.remedy)
