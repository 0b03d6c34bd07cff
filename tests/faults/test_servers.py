"""A server leaks, in Python, JavaScript or C: what the report says of it, and that the repaired one is silent."""

import contextlib
import os

import pytest

from commands import report
from netstat import CLOSE_WAIT, ESTABLISHED, LISTEN, rows, wait_for
from servers import LANGUAGES
from waiting import eventually

LEFT = {"unread": len(b"hello") + 1, "eof_unread": 1, "eof_ignored": 0}
"""Bytes in the receive queue, the FIN counted as one."""

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


@pytest.mark.parametrize("mode", LEFT)
@pytest.mark.parametrize("language", LANGUAGES)
def test_names_the_leak_of_a_server(start_server, language, mode):
    """The report tells process, descriptor, inode, peer, queue and cause, whatever the server is written in."""
    server = start_server(language, mode)
    with server.connect() as client:
        peer = client.getsockname()
        inode = wait_for(server.port, remote_port=peer[1], state=ESTABLISHED)[0].inode
        client.close()
        wait_for(server.port, remote_port=peer[1], state=CLOSE_WAIT, recv_queue=LEFT[mode])
    found = report(server.pid)
    (leak,) = found["leaks"]
    assert os.readlink(f"/proc/{server.pid}/fd/{leak['fd']}") == f"socket:[{inode}]"
    assert leak["holders"] == [{"pid": server.pid, "fd": leak["fd"], "command": found["processes"][0]["command"]}]
    expected = {
        "pid": server.pid,
        "inode": inode,
        "state": "CLOSE_WAIT",
        "local": f"127.0.0.1:{server.port}",
        "remote": f"127.0.0.1:{peer[1]}",
        "side": "server",
        "recv_queue": LEFT[mode],
        "send_queue": 0,
        "cause": mode,
        "age_is": "exact",
        "created_at": None,
    }
    assert leak == {**leak, **expected}


@pytest.mark.parametrize("language", LANGUAGES)
def test_is_silent_about_the_repaired_server(start_server, language):
    """The same server, which closes when it has read the EOF, has no leak."""
    server = start_server(language, "close")
    with server.connect():
        pass
    eventually(lambda: not [row for row in rows(server.port) if row.inode and row.state != LISTEN])
    assert report(server.pid)["leaks"] == []


def test_lists_the_process_with_its_budget_and_states(start_server):
    """Beside the leaks, the report tells descriptors, states and listeners of the process."""
    server = start_server("python", "unread")
    with server.connect(), server.half_close(), server.half_close():
        (process,) = report(server.pid)["processes"]
        n_open = len(os.listdir(f"/proc/{server.pid}/fd"))
    assert process["fd_used"] == n_open
    assert process["states"] == {"LISTEN": 1, "ESTABLISHED": 1, "CLOSE_WAIT": 2}
    (listener,) = process["listeners"]
    expected = {"local": f"127.0.0.1:{server.port}", "queued": 0, "queued_close_wait": 0}
    assert listener == {**listener, **expected}
    assert listener["backlog"] > 0


def test_lists_the_oldest_of_many_first(start_server):
    """Thirty leaks of one process are thirty rows, by falling age, each with a descriptor of its own."""
    server = start_server("python", "unread")
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(server.half_close())
        leaks = report(server.pid)["leaks"]
    ages = [leak["age_seconds"] for leak in leaks]
    assert ages == sorted(ages, reverse=True)
    assert len({leak["fd"] for leak in leaks}) == len({leak["cookie"] for leak in leaks}) == 30
