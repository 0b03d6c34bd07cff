"""Signals that threads of ours block, and what is read of those of the program."""

import signal
import threading

import pytest

from sockguard._kernel import signal_masks
from sockguard._kernel.signal_masks import SIGNALS, block_signals, mask_of_new_thread, own_mask, parse_mask, set_mask

STATUS = b"Name:\tpython\nSigPnd:\t0000000000000000\nSigBlk:\t%s\nSigIgn:\t0000000001001000\n"


def in_a_thread(work):
    """Does some work in a thread of its own, and gives what it gave."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_blocked_signals_are_read():
    """A bit each, the lowest for signal 1; bits of signals that Python does not know are passed over."""
    assert parse_mask(STATUS % b"0000000000000000") == set()
    assert parse_mask(STATUS % b"0000000000000201") == {signal.SIGHUP, signal.SIGUSR1}
    assert parse_mask(STATUS % b"ffffffffffffffff") == signal.valid_signals()
    assert parse_mask(b"Name:\tpython\n") == set()


def test_a_thread_of_the_programs_hands_its_own_mask_on():
    """As the system does."""

    def work() -> bool:
        set_mask({signal.SIGUSR1})
        return mask_of_new_thread() == own_mask() == {signal.SIGUSR1}

    assert in_a_thread(work)


def test_the_guards_thread_hands_on_what_the_program_blocks():
    """Itself, it blocks them all but those of a fault; and what another thread does is its own matter."""

    def work() -> bool:
        block_signals({signal.SIGUSR1})
        return own_mask() >= SIGNALS - {signal.SIGKILL, signal.SIGSTOP} and signal.SIGUSR1 in mask_of_new_thread()

    assert in_a_thread(work)
    assert mask_of_new_thread() == own_mask()


def test_without_proc_it_is_what_was_blocked_at_the_start(monkeypatch):
    """What the main thread blocks now cannot be read there."""

    def work() -> set[int]:
        block_signals({signal.SIGUSR1})
        monkeypatch.setattr(signal_masks, "open", refuse, raising=False)
        return mask_of_new_thread()

    assert in_a_thread(work) == {signal.SIGUSR1}


def refuse(*_):
    raise FileNotFoundError


@pytest.mark.usefixtures("_no_masks")
def test_where_threads_have_no_masks_nothing_is_done():
    """As on Windows."""
    block_signals(set())
    set_mask({signal.SIGUSR1})
    assert own_mask() == set()


@pytest.fixture
def _no_masks(monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask")
    yield
    del signal_masks._here.of_program  # noqa: SLF001 - this thread is not the guard's
