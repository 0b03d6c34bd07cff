"""`sockguard demo`: a real leaking server is reported, healed and ended, in a few seconds."""

import os
import re

import pytest

from commands import run

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


@pytest.fixture(scope="module")
def shown():
    return run("demo")


def test_tells_the_whole_story(shown):
    """The demo shows the server's bug, the report with five leaks, reap ending all five, and what remains."""
    assert (shown.status, shown.err) == (0, "")
    order = [
        "async def serve_events",
        "$ sockguard report --pid",
        "5 leaked connections in 1 process",
        "eof_ignored x5",
        "$ sockguard reap --pid",
        "$ sockguard states --pid",
    ]
    places = [shown.out.find(text) for text in order]
    assert places == sorted(places)
    assert min(places) >= 0
    assert shown.out.count("ended: pid") == 5


def test_heals_all_connections(shown):
    """After reap, no connection of the server is in CLOSE_WAIT any more."""
    states = shown.out.rpartition("$ sockguard states")[2]
    assert "CLOSE_WAIT" not in states
    assert re.search(r"^ *5 +CLOSE ", states, re.MULTILINE)


def test_leaves_no_process_behind(shown):
    """The server of the demo is gone with it."""
    pid = int(re.search(r"pid (\d+)", shown.out).group(1))
    assert not os.path.exists(f"/proc/{pid}")


def test_in_a_pipe_is_in_order_and_plain(shown):
    """Its own words and those of the commands come in the order in which they happened, without escape codes."""
    assert "\x1b" not in shown.out
    assert shown.out.index("No restart needed") < shown.out.index("$ sockguard reap") < shown.out.index("ended: pid")
