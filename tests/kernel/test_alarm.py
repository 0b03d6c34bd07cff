"""The alarm: a descriptor that is readable every so often."""

import os
import select
import sys
import time

import pytest

from sockguard._kernel import alarm as module
from sockguard._kernel.alarm import Alarm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has timerfd")


def is_ringing(alarm, timeout=0.0) -> bool:
    return bool(select.select([alarm], [], [], timeout)[0])


@pytest.fixture(params=["python", "libc"])
def make(request, monkeypatch):
    """Makes alarms by Python's own functions, and by those of the C library."""
    if request.param == "libc":
        monkeypatch.setattr(module, "_start", module._start_by_libc)  # noqa: SLF001
    elif not hasattr(os, "timerfd_create"):
        pytest.skip("Python has it from 3.13 on")
    made = []
    yield lambda every: made.append(Alarm(every)) or made[-1]
    for alarm in made:
        alarm.close()


def test_it_rings_again_and_again(make):
    """It rings when its time has come and not before, until it is hushed, and then once more."""
    alarm = make(0.05)
    for _ in range(3):
        assert not is_ringing(alarm) or time.clock_gettime(time.CLOCK_MONOTONIC) >= alarm.next_at  # late ourselves
        assert is_ringing(alarm, 20)
        assert time.clock_gettime(time.CLOCK_MONOTONIC) >= alarm.next_at
        assert is_ringing(alarm)
        before = alarm.next_at
        alarm.hush()
        assert alarm.next_at >= before + 0.05


def test_to_hush_what_does_not_ring_changes_nothing(make):
    """The instant of the next ring stays."""
    alarm = make(60)
    before = alarm.next_at
    alarm.hush()
    assert alarm.next_at == before


def test_missed_rings_are_counted(make):
    """One that was not hushed for long goes on from now, not from then."""
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    alarm = make(0.01)
    lag = time.clock_gettime(time.CLOCK_MONOTONIC) - before
    time.sleep(0.1)
    hushed_at = time.clock_gettime(time.CLOCK_MONOTONIC)
    alarm.hush()
    assert alarm.next_at > hushed_at - lag - 0.001


def test_its_descriptor_is_given_back_and_no_other(make):
    """What the program has put at its number, after it closed all descriptors, stays open."""
    alarm, other = make(60), make(60)
    fd, stolen = alarm.fileno(), other.fileno()
    assert not os.get_inheritable(fd)
    alarm.close()
    assert alarm.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    reading, writing = os.pipe()
    os.dup2(reading, stolen)
    other.close()
    assert os.fstat(stolen)
    for each in (reading, writing, stolen):
        os.close(each)


def test_without_a_descriptor_it_says_so(make):
    """It raises OSError where none is left."""
    import resource  # noqa: PLC0415 - not on Windows

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            make(60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
