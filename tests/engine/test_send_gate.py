"""Between two messages, and nowhere else: the gate that a heartbeat goes through."""

import os
import threading

import pytest

from forks import succeeds_in_child
from sockguard._engine.send_gate import SendGate


def test_who_beats_gets_in_between_two_messages_only():
    """Not while a message of several parts is sent, whose parts enter too; and it never waits."""
    gate = SendGate()
    with gate:
        assert not gate.try_enter()
        with gate:
            assert not gate.try_enter()
        assert not gate.try_enter()
    assert gate.try_enter()
    gate.__exit__(None, None, None)
    assert gate.try_enter()


def test_another_thread_is_kept_out():
    """While one sends, a heartbeat from another thread is refused; and while it beats, a sender waits."""
    gate = SendGate()
    answers: list[object] = []
    with gate:
        thread = threading.Thread(target=lambda: answers.append(gate.try_enter()))
        thread.start()
        thread.join(20)
    assert answers == [False]
    assert gate.try_enter()
    sender = threading.Thread(target=lambda: answers.append(gate.__enter__()))
    sender.start()
    sender.join(0.1)
    assert sender.is_alive()
    gate.__exit__(None, None, None)
    sender.join(20)
    assert answers == [False, gate]


def test_who_cannot_wait_is_told_so():
    """At once or after its time; and the thread that is inside enters as often as it likes."""
    gate = SendGate()
    answers: list[bool] = []
    with gate:
        for timeout in (0.0, 0.01):
            thread = threading.Thread(target=lambda t=timeout: answers.append(gate.enter(t)))
            thread.start()
            thread.join(20)
        assert gate.enter(0.0)
        gate.__exit__(None, None, None)
    assert answers == [False, False]
    assert gate.enter(None)
    assert not gate.try_enter()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_forked_child_is_not_kept_out_by_a_thread_that_it_has_not(is_ours):
    """But the thread that forked is inside there, too, until it leaves."""
    gate, is_in, is_over = SendGate(), threading.Event(), threading.Event()

    def hold() -> None:
        with gate:
            is_in.set()
            is_over.wait(20)

    def is_as_expected() -> bool:
        was_free = gate.try_enter()
        gate.__exit__(None, None, None)
        return was_free != is_ours and gate.try_enter()

    thread = threading.Thread(target=hold)
    if is_ours:
        gate.enter(None)
    else:
        thread.start()
        assert is_in.wait(20)
    assert succeeds_in_child(is_as_expected)
    is_over.set()
    if not is_ours:
        thread.join()
