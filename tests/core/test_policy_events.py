"""What is told of a policy itself, and of variables that were meant to be one."""

import pytest

from sockguard._core.policy import Keepalive, Policy
from sockguard._core.policy_events import in_force, warnings_of


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (Policy(), 120.0),
        (Policy(keepalive=Keepalive(10, 5, 2)), 20.0),
        (Policy(keepalive=None), None),
        (Policy(mode="observe"), None),
    ],
    ids=lambda value: "" if isinstance(value, Policy) else str(value),
)
def test_the_detection_time_of_a_policy_is_told(policy, seconds):
    """Whoever reads the log need not work it out; it is none where no probe is sent."""
    event = in_force(policy, 7)
    assert (event.name, event.level) == ("policy_in_force", "debug")
    assert event.fields == {"mode": policy.mode, "detection_seconds": seconds, "pid": 7}


def test_a_variable_that_is_no_setting_is_told_with_the_one_that_was_meant():
    """Its value is told only where it was meant for us: of an unknown one nobody knows what it holds."""
    near, unknown = warnings_of({"SOCKGUARD_FIN_TIMOUT": "3", "SOCKGUARD_FROBNICATE": "secret", "PATH": "/"}, 7)
    assert (near.name, near.level) == ("policy_warning", "warning")
    assert near.message == (
        "Policy SOCKGUARD_FIN_TIMOUT=3: there is no such setting, so this variable does nothing. "
        "Was SOCKGUARD_FIN_TIMEOUT meant?"
    )
    assert unknown.message == "Policy SOCKGUARD_FROBNICATE: there is no such setting, so this variable does nothing."
    assert (unknown.fields["field"], unknown.fields["pid"]) == ("SOCKGUARD_FROBNICATE", 7)
    assert "secret" not in str(unknown)


def test_a_long_value_is_cut():
    """A line of the log stays one that can be read."""
    (event,) = warnings_of({"SOCKGUARD_MOD": "x" * 5000}, 7)
    assert len(event.message) < 400
