"""Nothing lost, nobody wrongly closed: a few hundred connections of the differential test, and proof that it can fail.

`make differential` plays 100,000.
"""

import secrets
from pathlib import Path

import pytest

from differential.runner import Plan, play
from differential.script import KINDS, expected, make_script

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

BROKEN = str(Path(__file__).parent / "broken.py")


def test_guarded_as_bare():
    """By default all transcripts of both ends are as without the guard, which is there and says nothing.

    And both are as they had to be: each script has one right transcript.
    """
    outcome = play(Plan(connections=600, seed=secrets.randbits(32), concurrency=60))
    assert [str(sample) for sample in outcome.samples] == []
    assert (outcome.errors, outcome.closed_by_guard, outcome.n_guarded_servers) == ("", 0, len(KINDS))
    assert (outcome.bare_wrong, outcome.different, outcome.false_closes) == (0, 0, 0)
    assert outcome.connections >= 600


def test_policy_that_is_too_strict_is_counted():
    """With 0.3 s for an answer that takes 8 s, each connection is counted as wrongly closed, on that side only."""
    outcome = play(Plan(connections=40, late=8.0, guarded=("-m", "sockguard", "run", "--fin-timeout", "0.3")))
    assert (outcome.false_closes, outcome.different, outcome.bare_wrong) == (40, 40, 0)
    assert outcome.closed_by_guard > 0


def test_timer_instead_of_a_guard_is_counted():
    """What shuts down half-closed connections by the clock alone is counted, connection by connection."""
    outcome = play(Plan(connections=40, late=8.0, guarded=(BROKEN, "timer")))
    assert (outcome.false_closes, outcome.different, outcome.bare_wrong) == (40, 40, 0)


def test_spoilt_bytes_are_counted():
    """A bit turned on the way is a difference, and no wrong close."""
    outcome = play(Plan(connections=200, seed=1, grace=20.0, guarded=(BROKEN, "flip")))
    assert outcome.different > 50
    assert (outcome.false_closes, outcome.bare_wrong) == (0, 0)


def test_scripts_are_repeatable():
    """The same seed and number give the same script and the same right transcript; another seed another script."""
    scripts = [make_script(7, index) for index in range(50)]
    assert scripts == [make_script(7, index) for index in range(50)]
    assert [expected(visit) for script in scripts for visit in script.visits] == [
        expected(visit) for index in range(50) for visit in make_script(7, index).visits
    ]
    assert scripts != [make_script(8, index) for index in range(50)]
