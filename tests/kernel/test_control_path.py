"""Where control sockets lie: only in a directory that nobody else can enter, and no longer than their process lives."""

import os
import socket
import stat
import struct

import pytest

from commands import needs_root
from sockguard._kernel import control_path
from sockguard._kernel.control_path import (
    NAME,
    Peer,
    is_dead,
    parse_peer,
    private_folder,
    read_peer,
    socket_name,
    sweep,
)
from sockguard._kernel.proc_pid import read_stat

NO_PID = 2**22 + 1
"""Above the largest pid that Linux gives (PID_MAX_LIMIT)."""


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """Keeps the tests out of the real directories."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_name_has_pid_and_start_time():
    """So a process that comes later with the same pid has another name."""
    assert socket_name(12, 345) == "12-345.sock"
    assert NAME.fullmatch("12-345.sock")["started"] == "345"
    assert not NAME.fullmatch("12-345.sock\n")
    assert not NAME.fullmatch("٣-1.sock")


def test_peer_is_decoded():
    """`struct ucred` is pid, uid and gid."""
    assert parse_peer(struct.pack("iII", 5, 1000, 6)) == Peer(5, 1000)


def test_kernel_names_the_peer():
    """Of a pair within one process that is ourselves."""
    one, two = socket.socketpair()
    with one, two:
        assert read_peer(one) == Peer(os.getpid(), os.geteuid())


def test_runtime_directory_goes_first(monkeypatch, tmp_path):
    """XDG_RUNTIME_DIR is made for this; it is of the user, and ends with the session."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert private_folder() == str(runtime / "sockguard")
    assert stat.S_IMODE((runtime / "sockguard").stat().st_mode) == 0o700
    assert private_folder() == str(runtime / "sockguard")


@pytest.mark.parametrize("bad", ["", "relative", "/nowhere/at/all"])
def test_else_a_directory_named_by_the_user(monkeypatch, tmp_path, bad):
    """Where there is no such directory, in the temporary one; two users have two."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", bad)
    assert private_folder() == str(tmp_path / f"sockguard-{os.geteuid()}")


def test_temporary_directory_is_tmp_if_not_said_otherwise(monkeypatch):
    """TMPDIR counts only as an absolute path, as what is found must not depend on the working directory."""
    made = []
    monkeypatch.setattr(control_path.os, "mkdir", lambda path, mode: made.append((path, mode)))
    monkeypatch.setattr(control_path, "_is_private", bool)
    for value in ("", "relative"):
        monkeypatch.setenv("TMPDIR", value)
        private_folder()
    assert made == [(f"/tmp/sockguard-{os.geteuid()}", 0o700)] * 2


def test_runtime_directory_of_somebody_else_is_not_used(monkeypatch, tmp_path):
    """After su, the variable may still name the directory of the user before."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert private_folder() == str(tmp_path / f"sockguard-{os.geteuid()}")


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_directory_that_is_a_trap_is_refused(tmp_path, trap):
    """One that others may enter, a link to somewhere, or no directory at all."""
    path = tmp_path / f"sockguard-{os.geteuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trap == "open":
        path.mkdir()
        path.chmod(0o701)
    elif trap == "link":
        path.symlink_to(elsewhere)
    else:
        path.touch()
    with pytest.raises(PermissionError, match="only this user"):
        private_folder()
    assert list(elsewhere.iterdir()) == []


@needs_root
def test_directory_of_another_user_is_refused(tmp_path):
    """Whoever made it first could look into it, or replace the socket."""
    path = tmp_path / f"sockguard-{os.geteuid()}"
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    with pytest.raises(PermissionError):
        private_folder()


def left_behind(folder, name: str) -> str:
    """Makes a socket file at which nobody listens."""
    path = str(folder / name)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    return path


def test_sweep_removes_what_the_dead_have_left(tmp_path):
    """Of a process that is gone, and of one whose pid another process has now; nothing else in the directory."""
    mine = read_stat("self").started
    gone = [left_behind(tmp_path, name) for name in (f"{NO_PID}-1.sock", f"{os.getpid()}-{mine - 1}.sock")]
    kept = [left_behind(tmp_path, name) for name in (f"{os.getpid()}-{mine}.sock", "other.sock")]
    sweep(str(tmp_path))
    assert [os.path.exists(path) for path in (*gone, *kept)] == [False, False, True, True]


def test_sweep_leaves_what_somebody_listens_at(tmp_path):
    """A process of another PID namespace is in no /proc of ours, and lives."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / f"{NO_PID}-1.sock"))
        sock.listen(0)
        for _ in range(3):  # the last ones find the queue full
            sweep(str(tmp_path))
        assert (tmp_path / f"{NO_PID}-1.sock").exists()


def test_two_sweeps_at_once_are_no_error(tmp_path, monkeypatch):
    """A file that somebody else was faster to remove is what was wanted."""
    path = left_behind(tmp_path, f"{NO_PID}-1.sock")
    unlink = os.unlink
    monkeypatch.setattr(control_path.os, "unlink", lambda path: (unlink(path), unlink(path)))
    sweep(str(tmp_path))
    assert not os.path.exists(path)


def test_process_that_may_not_be_looked_at_is_not_dead(monkeypatch):
    """With hidepid=1 /proc refuses; that says nothing."""

    def refuse(pid):
        raise PermissionError

    assert not is_dead(os.getpid(), read_stat("self").started)
    monkeypatch.setattr(control_path, "read_stat", refuse)
    assert not is_dead(1, 1)
