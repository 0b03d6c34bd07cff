"""Between two messages, and nowhere else: the gate that a heartbeat goes through."""

import threading

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
        thread.join(5)
    assert answers == [False]
    assert gate.try_enter()
    sender = threading.Thread(target=lambda: answers.append(gate.__enter__()))
    sender.start()
    sender.join(0.1)
    assert sender.is_alive()
    gate.__exit__(None, None, None)
    sender.join(5)
    assert answers == [False, gate]
