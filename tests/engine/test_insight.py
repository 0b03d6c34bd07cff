"""What only the inside knows: who opened a connection, who holds it, and what the guard has done with it."""

import asyncio
import os
import socket
import sys
import threading

import pytest

import sockguard
from commands import report
from guarded import driven
from loopback import connect, state_of, vanished_peer
from servers import start_program
from sockguard._engine import insight as module
from sockguard._engine.current import set_current_guard
from sockguard._kernel.one_socket import read_cookie
from waiting import eventually


@pytest.fixture
def ended():
    """A guard that is this process's, with one connection that it has ended and one that it has not."""
    with vanished_peer() as sick, connect() as healthy, driven(fin_timeout=5, leak_after=2) as d:
        d.adopt(sick.server)
        d.adopt(healthy.server)
        for _ in range(3):
            d.tick(3)
        set_current_guard(d.guard)
        yield d, sick, healthy
        set_current_guard(None)


def line_here(frames) -> bool:
    return any("guarded.py" in frame for frame in frames)


# --- What is known ---


def test_every_connection_has_its_site_and_sick_ones_the_rest(ended):
    """Holders are searched and owners described for those that have hung up only."""
    d, sick, healthy = ended
    known = d.guard.insight.known()
    bad, good = known[read_cookie(sick.server)], known[read_cookie(healthy.server)]
    assert line_here(bad.created_at)
    assert line_here(good.created_at)
    assert (bad.ended_by_guard, bad.reason) == (True, "half_closed")
    assert (good.ended_by_guard, good.reason, good.held_by, good.owner) == (False, None, None, None)
    assert bad.held_by


def test_find_leaks_shows_it(ended):
    """The public function, under a guard: where it was opened, and that the guard has ended it."""
    _, sick, _ = ended
    eventually(lambda: state_of(sick.server) == 7)
    [leak] = [leak for leak in sockguard.find_leaks(min_age=0) if leak.fd == sick.server.fileno()]
    assert leak.cause == "ended_by_guard"
    assert line_here(leak.created_at)


def test_find_leaks_knows_what_was_opened_since_the_last_tick():
    """Nothing is enlisted yet, and the line is known all the same."""
    with vanished_peer() as c, driven() as d:
        d.guard.adopt(c.server, c.server, True)
        set_current_guard(d.guard)
        try:
            [leak] = [leak for leak in sockguard.find_leaks(min_age=0) if leak.fd == c.server.fileno()]
        finally:
            set_current_guard(None)
        assert leak.created_at is not None


def test_a_record_without_a_cookie_is_asked_for_it():
    """A connection that is still being made, or was enlisted and not admitted."""
    with connect() as c, driven() as d:
        d.adopt(c.server)
        assert d.guard.insight.known().keys() == {read_cookie(c.server)}
        c.server.close()
        assert d.guard.insight.known() == {}


def test_searching_ends_when_it_takes_too_long(monkeypatch):
    """Who asks waits for two seconds: what is sick comes first, and the rest goes without holders."""
    with vanished_peer() as c, driven(leak_after=None, fin_timeout=None) as d:
        d.adopt(c.server)
        d.tick()
        monkeypatch.setattr(module, "MAX_SEARCH", -1.0)
        [known] = d.guard.insight.known().values()
        assert (known.held_by, known.owner) == (None, None)
        assert known.created_at


def test_a_handler_of_asyncio_is_described():
    """Who works on it is found through the transport of its loop; a stalled one with the line where it stands."""

    async def main():
        with driven(leak_after=None, fin_timeout=None) as d:
            done = asyncio.Event()

            async def handle(reader, writer):
                d.adopt(writer.transport._sock)  # noqa: SLF001 - as accept() would have
                await done.wait()
                writer.close()

            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            while not d.guard.registry.by_fd:  # noqa: ASYNC110 - accepted by the loop, at its own time
                await asyncio.sleep(0.001)
            [record] = d.guard.registry.records()
            writer.write_eof()
            await asyncio.sleep(0.05)
            d.tick()
            assert "handle()" in d.guard.insight.owner_of(record)
            [entry] = d.guard.insight.answer()["connections"]
            assert (entry["thread"], "handle()" in entry["owner"]) == (threading.get_ident(), True)
            ref = d.guard.stalls.loop_ref(asyncio.get_running_loop())
            ref.stalled_at = d.now - 5
            [stall] = d.guard.insight.answer()["stalled"]
            assert any("test_insight.py" in where for where in stall["where"])
            done.set()
            await asyncio.sleep(0.01)
            writer.close()
            server.close()
            await writer.wait_closed()

    asyncio.run(main())


# --- Who asks ---


def test_the_answer_has_every_connection_and_the_policy(ended):
    """As docs/reference/control-socket.md has it; plain values only."""
    d, sick, healthy = ended
    answer = d.guard.insight.answer()
    by_cookie = {entry["cookie"]: entry for entry in answer["connections"]}
    assert by_cookie.keys() == {read_cookie(sick.server), read_cookie(healthy.server)}
    assert by_cookie[read_cookie(sick.server)]["step"] == "shut_down"
    assert by_cookie[read_cookie(healthy.server)]["step"] is None
    assert (answer["policy"]["fin_timeout"], answer["stalled"]) == (5, [])
    assert isinstance(answer["policy"]["keepalive"], str)


def test_the_dump_is_for_people(ended):
    """Connections with age, line and step; leaks; the last events."""
    d, sick, healthy = ended
    d.guard.insight._recent = lambda: [(d.now, event) for event in d.events]  # noqa: SLF001
    text = d.guard.insight.dump()
    assert f"sockguard in process {os.getpid()}" in text
    assert f"fd {sick.server.fileno()}, accepted" in text
    assert "shut_down" in text
    assert f"fd {healthy.server.fileno()}, accepted" in text


def test_a_stranger_is_dumped_as_one_whose_place_is_not_known():
    """And a client's as connected."""
    with vanished_peer() as c, driven(leak_after=None, fin_timeout=None) as d:
        d.tick()
        d.adopt(c.listener, is_server=False)
        text = d.guard.insight.dump()
        assert f"fd {c.server.fileno()}, accepted" in text
        assert "a place not known" in text
        assert f"fd {c.listener.fileno()}, connected" in text


LEAKS = """
import socket, sys, sockguard
sockguard.install(fin_timeout=None)

def serve(listener):
    return listener.accept()[0]

with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    kept = serve(listener)
    print("accepted", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_the_report_of_another_process_names_the_line(tmp_path):
    """`sockguard report --pid` asks the control socket of a guarded program: who opened it, and who holds it."""
    path = tmp_path / "leaks.py"
    path.write_text(LEAKS)
    with start_program(sys.executable, "-P", str(path)) as program:
        port = int(program.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        assert program.stdout.readline() == "accepted\n"
        eventually(lambda: report(program.pid)["leaks"])
        created = eventually(lambda: report(program.pid)["leaks"][0]["created_at"], timeout=20)
        assert created[0].endswith("leaks.py:6 in serve")
        eventually(lambda: "kept" in str(report(program.pid)["leaks"][0]["held_by"]))
