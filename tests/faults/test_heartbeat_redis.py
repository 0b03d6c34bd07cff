"""A heartbeat against a real Redis server: answered, lost, and never seen by the application."""

import os
import signal

import pytest

from beating import Beating
from redis_server import command, start_redis
from sockguard._core.heartbeat import BeatState
from sockguard._core.policy_probes import Heartbeat
from waiting import eventually

pytestmark = pytest.mark.slow
HEARTBEAT = Heartbeat.redis(every=30, timeout=5)
VALUE = b"one\r\n+PONG\r\n$4\r\npong\r\n" * 100
"""Data that holds what looks like an answer, at the beginning of lines."""
BLOB = b"$%d\r\n%s\r\n" % (len(VALUE), VALUE)
SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """A server that all tests of this file share."""
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=[65536, 3], ids=["whole", "in pieces"])
def beating(redis, request):
    """A connection with a heartbeat that receives much or little at a time."""
    with redis.connect() as sock:
        yield Beating(sock, HEARTBEAT, size=request.param)


def test_the_answer_is_not_seen_by_the_application(beating):
    """Round for round: the question is answered and timed, and the next command gets its own reply."""
    for n in range(1, 4):
        beating.ask()
        beating.read_answer()
        assert (beating.heart.state, beating.heart.rtt, beating.received) == (BeatState.WAITING, 0.0, b"")
        beating.send(command("INCR", f"counter-{beating.size}"))
        reply = b":%d\r\n" % n
        assert beating.take(len(reply)) == reply


def test_values_that_look_like_answers_arrive_whole(beating):
    """Before the answer, which stands in line behind them, and after it."""
    beating.send(command("SET", "value", VALUE))
    assert beating.take(5) == b"+OK\r\n"
    beating.send(command("GET", "value") * 3)
    beating.ask()
    beating.send(command("GET", "value") + command("PING"))
    assert beating.take(4 * len(BLOB) + 7) == BLOB * 4 + b"+PONG\r\n"
    assert (beating.heart.state, beating.heart.n_answered) == (BeatState.WAITING, 1)


@pytest.mark.parametrize("version", [2, 3])
def test_a_connection_that_subscribes_has_a_heartbeat(redis, beating, version):
    """In both versions of the protocol, with messages between question and answer."""
    if version == 3:
        beating.send(command("HELLO", "3"))
        beating.read_until(lambda: beating.received.endswith(b"modules\r\n*0\r\n"))
        beating.received = b""
    subscribed = SUBSCRIBED.replace(b"*", b">") if version == 3 else SUBSCRIBED
    message = subscribed[:4] + b"$7\r\nmessage\r\n$4\r\nnews\r\n$7\r\n+PONG\r\n\r\n"
    beating.send(command("SUBSCRIBE", "news"))
    assert beating.take(len(subscribed)) == subscribed
    assert redis.run("PUBLISH", "news", "+PONG\r\n") == b":1\r\n"
    beating.ask()
    beating.read_answer()
    assert redis.run("PUBLISH", "news", "+PONG\r\n") == b":1\r\n"
    assert beating.take(2 * len(message)) == message * 2


def test_a_server_that_hangs_is_lost_and_its_late_answer_is_not_seen(redis, beating):
    """A process that is stopped: TCP acknowledges the question, and nobody answers it."""
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        beating.ask()
        assert beating.silence(4.9) is BeatState.ASKED
        assert beating.silence(0.1) is BeatState.LOST
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    beating.send(command("ECHO", "late"))
    assert beating.take(10) == b"$4\r\nlate\r\n"


def refusals(redis):
    """Brings the server into states in which it refuses a PING; gives each refusal and the way back."""
    redis.run("ACL", "SETUSER", "default", "-ping")
    yield b"-NOPERM", lambda: redis.run("ACL", "SETUSER", "default", "+ping")
    for words in (("save", "900 1"), ("dir", "/proc")):
        assert redis.run("CONFIG", "SET", *words) == b"+OK\r\n"
    redis.run("BGSAVE")
    eventually(lambda: b"rdb_last_bgsave_status:err" in redis.run("INFO", "persistence"))
    yield b"-MISCONF", lambda: redis.run("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
    redis.run("CONFIG", "SET", "busy-reply-threshold", "1")
    with redis.connect() as busy:
        busy.sendall(command("EVAL", "while true do end", "0"))
        eventually(lambda: redis.run("PING").startswith(b"-BUSY"))
        yield b"-BUSY", lambda: redis.run("SCRIPT", "KILL")
        assert busy.recv(4096).startswith(b"-ERR ")
    redis.run("CONFIG", "SET", "requirepass", "secret")
    yield b"-NOAUTH", lambda: None


def meet_refusal(redis, undo) -> bytes:
    """Asks, is refused, and gives what the application then gets for a command of its own."""
    with redis.connect() as sock:
        beating = Beating(sock, HEARTBEAT)
        beating.ask()
        beating.read_answer()
        undo()
        beating.send(command("AUTH", "a", "b", "c"))
        beating.read_until(lambda: beating.received.endswith(b"\r\n"))
        return beating.received


def test_a_refused_question_is_answered_too(tmp_path):
    """By an error that the application has not asked for; its next command must get its own reply, not this."""
    with start_redis(tmp_path) as redis:
        for code, undo in refusals(redis):
            assert redis.run("PING").startswith(code + b" ")
            assert meet_refusal(redis, undo) == b"-ERR syntax error\r\n"


def test_a_blocking_command_delays_the_answer(redis, beating):
    """Redis answers nothing while a connection waits in BLPOP; the documentation warns of it, and this is why."""
    beating.send(command("BLPOP", "queue", "0"))
    beating.ask()
    eventually(lambda: b"blocked_clients:1" in redis.run("INFO", "clients"))
    assert beating.silence(5) is BeatState.LOST
    assert redis.run("RPUSH", "queue", "job") == b":1\r\n"
    beating.read_answer()
    assert beating.received == b"*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n"


def test_a_server_that_is_killed_ends_the_heartbeat(tmp_path):
    """The end of the stream is told by TCP; nobody is lost, and nothing more is asked."""
    with start_redis(tmp_path) as redis, redis.connect() as sock:
        beating = Beating(sock, HEARTBEAT)
        beating.ask()
        beating.read_answer()
        os.kill(redis.pid, signal.SIGKILL)
        beating.read_until(lambda: False)
        assert (beating.heart.next_at, beating.silence(1e6)) == (None, BeatState.WAITING)
