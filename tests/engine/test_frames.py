"""The stacks of threads are looked at where that harms no other interpreter; elsewhere the guard does without them."""

import sys
import threading

import pytest

from interpreters import run_program
from sockguard._engine import dump, frames, referrers, stalls
from sockguard._engine.frames import frames_of_threads
from sockguard._engine.sockets.in_use import is_in_use

# 3.12 itself ends so when a program is over that has run much in another interpreter: python/cpython#112140, #119213.
SOUND = pytest.mark.skipif(sys.version_info < (3, 13), reason="this Python breaks by itself")
ISOLATED = pytest.mark.skipif(not frames.HAVE_OWN_MEMORY, reason="all interpreters share one memory")


def test_each_thread_is_seen():
    """With the function that it is in."""
    is_there, gate = threading.Event(), threading.Event()

    def stands():
        is_there.set()
        gate.wait()

    thread = threading.Thread(target=stands)
    thread.start()
    is_there.wait()
    try:
        frame = frames_of_threads()[thread.ident]
        while frame.f_code is not stands.__code__:
            frame = frame.f_back
    finally:
        gate.set()
        thread.join()


def test_without_stacks_nothing_is_explained_and_all_sockets_are_in_use(monkeypatch):
    """What explains leaves it out, the dump has the thread that asks; what is to be closed waits."""
    for module in (dump, referrers, stalls, sys.modules["sockguard._engine.sockets.in_use"]):
        monkeypatch.setattr(module, "frames_of_threads", lambda: None)
    own = threading.get_ident()
    assert (referrers.stacks(), stalls.where_is(own)) == ({}, ())
    stacks = dump._stacks(None)  # noqa: SLF001
    assert list(stacks) == [own]
    assert "_stacks" in {code.co_name for code, _ in stacks[own]}
    assert is_in_use(object())


SCENE = """
import sys, threading
try:
    import _interpreters as interpreters
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string

GUARDED = '''
import logging, socket, sys, time
logging.disable()
sys.path[:] = {path!r}
import sockguard
guard = sockguard.install(leak_after=0.5, fin_timeout=None)
with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname())
    with listener.accept()[0] as accepted:
        client.close()
        for _ in range(2000):
            if any(record.reported for record in guard.registry.records()):
                break
            time.sleep(0.01)
        print([leak.cause.value for leak in sockguard.find_leaks(min_age=0.0)], flush=True)
sockguard.uninstall()
'''.format(path=sys.path)
IDLE = '''
import time
def pause():
    time.sleep(0.01)
for _ in range(200):
    pause()
'''
other = interpreters.create()
"""

WITHIN = """
print(run(other, GUARDED))
interpreters.destroy(other)
"""

BESIDE = """
thread = threading.Thread(target=run, args=(other, IDLE))
thread.start()
exec(GUARDED)
thread.join()
interpreters.destroy(other)
print(None)
"""


@ISOLATED
@pytest.mark.parametrize("where", [pytest.param(WITHIN, marks=SOUND, id="within"), pytest.param(BESIDE, id="beside")])
def test_an_isolated_interpreter_survives_the_guard(where):
    """Whether the guard is in it, or in the main one while a thread runs in it: a leak is told, and nothing breaks."""
    assert run_program(sys.executable, SCENE + where) == ["['eof_unread']", "None"]
