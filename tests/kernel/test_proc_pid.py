"""/proc/PID: captured files, made-up process trees that change while they are read, and real processes."""

import errno
import os
import socket
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captured import DATA
from children import start_child
from loopback import inode_of
from sockguard._core.facts import Holder
from sockguard._kernel import proc_pid
from sockguard._kernel.natives import system
from sockguard._kernel.proc_pid import (
    Stat,
    find_holders,
    list_pids,
    parse_command,
    parse_nofile_limit,
    parse_socket_link,
    parse_stat,
    read_command,
    read_descriptor_limits,
    read_netns,
    read_parents,
    read_process,
    read_protocol,
    read_socket_fds,
    read_stat,
)
from sockguard.errors import InternalError
from waiting import eventually

VERSION = "6.18"
STAT = (DATA / f"stat-{VERSION}.txt").read_text()
LIMITS = (DATA / f"limits-{VERSION}.txt").read_text()
CMDLINE = (DATA / f"cmdline-{VERSION}.bin").read_bytes()
UNLIMITED = """\
Limit                     Soft Limit           Hard Limit           Units
Max open files            {} {} files
"""


# stat


def test_captured_name_holds_parentheses_blanks_and_a_newline() -> None:
    """The name ends at the last parenthesis, whatever it holds itself."""
    assert parse_stat(STAT) == Stat("a) (b\nc d", "S", 12869, 393734)


def stat_line(name: str, *, state: str = "S", ppid: int = 1, started: int = 77) -> str:
    return f"42 ({name}) {state} {ppid} " + "0 " * 17 + f"{started} " + "0 " * 30 + "\n"


@given(st.text(max_size=40), st.sampled_from("RSDZTtXI"), st.integers(0, 2**22), st.integers(0, 2**63))
def test_any_name_is_told_from_what_follows(name: str, state: str, ppid: int, started: int) -> None:
    """A program names itself as it likes, and cannot fake its parent or its start time by that."""
    assert parse_stat(stat_line(name, state=state, ppid=ppid, started=started)) == Stat(name, state, ppid, started)


@given(st.text(max_size=300) | st.text("() 0123456789S\n", max_size=300))
def test_garbage_for_stat_is_refused_or_understood(text: str) -> None:
    """Nothing but InternalError is raised; what is understood has numbers where they belong."""
    try:
        stat = parse_stat(text)
    except InternalError:
        return
    assert isinstance(stat.ppid, int) and isinstance(stat.started, int)


@pytest.mark.parametrize("length", range(STAT.index(" 393734") + 2))
def test_stat_that_is_cut_off_is_refused(length: int) -> None:
    """A line that ends before the start time is not half believed."""
    with pytest.raises(InternalError, match="not a /proc/PID/stat line"):
        parse_stat(STAT[:length])


# cmdline


def test_captured_command_line_becomes_one_harmless_line() -> None:
    """Escape characters are replaced, arguments separated by blanks, other languages kept."""
    command = parse_command(CMDLINE, "unused")
    assert command.endswith("print(flush=True); sys.stdin.read() ?[31mred  caf\xe9 two words")
    assert command.isprintable()


@pytest.mark.parametrize(
    ("cmdline", "command"),
    [
        (b"nginx: worker process\0", "nginx: worker process"),
        (b"nginx: worker process\0\0\0\0", "nginx: worker process"),
        (b"a\0\0b\0", "a  b"),
        (b"a\tb\nc\rd\x07\x9b\0", "a?b?c?d?\ufffd"),
        ("\u202egnp.exe\0".encode(), "?gnp.exe"),
        (b"\xff\xfe\0", "\ufffd\ufffd"),
        (b"x" * 5000, "x" * 4096),
        (b"", "[kthread]"),
    ],
)
def test_command_line(cmdline: bytes, command: str) -> None:
    """Arguments by blanks, nothing unprintable, not endless; the task's name where there is none."""
    assert parse_command(cmdline, "kthread") == command


@given(st.binary(max_size=300))
def test_command_is_always_one_printable_line(cmdline: bytes) -> None:
    """Whatever a process writes into its command line, it cannot write to the terminal of the report."""
    assert parse_command(cmdline, "name").isprintable()
    assert parse_command(cmdline, "name")


@given(st.text(max_size=15))
def test_name_in_place_of_a_command_is_printable_too(name: str) -> None:
    """A process may name itself by escape characters and have an empty command line (a zombie has)."""
    assert parse_command(b"", name).isprintable()


# limits


def test_captured_limit() -> None:
    """Soft and hard limit are found in the file of a real process."""
    assert parse_nofile_limit(LIMITS) == (20000, 20000)


@pytest.mark.parametrize(
    ("soft", "hard", "limits"),
    [
        ("unlimited", "unlimited", (None, None)),
        ("1024", "unlimited", (1024, None)),
        ("1024", "524288", (1024, 524288)),
        ("0", "0", (0, 0)),
    ],
)
def test_limit_may_be_unlimited(soft: str, hard: str, limits: tuple[int | None, int | None]) -> None:
    """No limit is None, a limit of 0 is 0."""
    assert parse_nofile_limit(UNLIMITED.format(f"{soft:20}", f"{hard:20}")) == limits


@pytest.mark.parametrize("number", ["", "many", "\u00b2", "1e3", "9" * 5000])
def test_limit_of_another_form_is_refused(number: str) -> None:
    """What is no number, though it may look like one, is refused."""
    with pytest.raises(InternalError, match="Max open files"):
        parse_nofile_limit(UNLIMITED.format("1024", number).replace(" files\n", ""))


def test_missing_limit_is_refused() -> None:
    """A file without the line is not taken for `unlimited`."""
    with pytest.raises(InternalError, match="Max open files"):
        parse_nofile_limit(LIMITS.replace("Max open files", "Max closed files"))


@given(st.text(max_size=200), st.text(string.printable, max_size=40))
def test_garbage_for_limits_is_refused_or_understood(text: str, row: str) -> None:
    """Nothing but InternalError is raised."""
    for candidate in (text, f"{text}\nMax open files {row}"):
        try:
            soft, hard = parse_nofile_limit(candidate)
        except InternalError:
            continue
        assert all(limit is None or isinstance(limit, int) for limit in (soft, hard))


# Links


@pytest.mark.parametrize(
    ("target", "inode"),
    [
        ("socket:[3660]", 3660),
        ("socket:[0]", 0),
        ("pipe:[3660]", None),
        ("anon_inode:[eventpoll]", None),
        ("/tmp/socket:[3660]", None),
        ("socket:[3660] (deleted)", None),
        ("socket:[]", None),
        ("socket:[-1]", None),
        ("socket:[\u00b2]", None),
        ("socket:[", None),
        ("", None),
    ],
)
def test_socket_link(target: str, inode: int | None) -> None:
    """Only the kernel's own form is a socket; a file of that name is none."""
    assert parse_socket_link(target) == inode


@given(st.text(max_size=30))
def test_any_link_target_is_understood(target: str) -> None:
    """A file may have any name; it is a socket only if it can be written back as one."""
    inode = parse_socket_link(target)
    assert inode is None or int(target[8:-1]) == inode


# A made-up /proc


class FakeProc:
    """A /proc tree in a folder; `path` is what the `proc` arguments want."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder)

    def add(
        self,
        pid: int,
        *,
        ppid: int = 1,
        fds: dict[int, str] | None = None,
        started: int = 77,
        state: str = "S",
        cmdline: bytes = b"server\0--port\08000\0",
        name: str = "server",
    ) -> Path:
        home = self.folder / str(pid)
        (home / "fd").mkdir(parents=True)
        (home / "ns").mkdir()
        (home / "ns" / "net").symlink_to("net:[4026531840]")
        (home / "stat").write_text(stat_line(name, state=state, ppid=ppid, started=started))
        (home / "cmdline").write_bytes(cmdline)
        (home / "limits").write_text(LIMITS)
        for fd, target in (fds or {}).items():
            (home / "fd" / str(fd)).symlink_to(target)
        return home


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def once(monkeypatch: pytest.MonkeyPatch, name: str, effect: Callable[[], object], *, when: int = 1) -> None:
    """Lets something happen right before the call number `when` of `os.<name>`."""
    genuine, calls = getattr(os, name), []

    def call(*arguments: object, **keywords: object) -> object:
        calls.append(arguments)
        if len(calls) == when:
            effect()
        return genuine(*arguments, **keywords)

    monkeypatch.setattr(system, name, call)


def test_process_is_read_whole(fake: FakeProc) -> None:
    """Who it is, what it may open, what it holds, in one record."""
    fake.add(42, ppid=7, fds={0: "/dev/null", 10: "socket:[5]", 9: "socket:[5]", 3: "socket:[6]", 4: "pipe:[8]"})
    facts = read_process(42, fake.path)
    assert (facts.pid, facts.ppid, facts.uid, facts.started, facts.netns) == (42, 7, os.getuid(), 77, 4026531840)
    assert (facts.command, facts.fd_used, facts.fd_limit) == ("server --port 8000", 5, 20000)
    assert facts.sockets == {5: (9, 10), 6: (3,)}


def test_process_that_does_not_exist(fake: FakeProc) -> None:
    """No folder, no process, whichever part of it is asked for."""
    for read in (read_process, read_stat, read_command, read_socket_fds, read_descriptor_limits):
        with pytest.raises(ProcessLookupError):
            read(42, fake.path)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_zombie_is_told_as_ended(fake: FakeProc, state: str) -> None:
    """A process that waits for its parent holds nothing any more, and may not be taken for unreadable."""
    fake.add(42, state=state)
    with pytest.raises(ProcessLookupError, match="zombie"):
        read_process(42, fake.path)


def test_descriptors_that_may_not_be_seen_are_not_zero(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another user is read as far as it goes: `fd_used` is None, not 0."""
    fake.add(42, fds={3: "socket:[5]"})

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(system, "open", refuse)
    facts = read_process(42, fake.path)
    assert (facts.command, facts.fd_used, facts.fd_limit, dict(facts.sockets)) == (
        "server --port 8000",
        None,
        20000,
        {},
    )


def test_links_that_may_not_be_seen_are_not_zero(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may change its user between the listing and the links: nothing is half believed."""
    fake.add(42, fds={3: "socket:[5]", 4: "socket:[6]"})
    genuine = os.readlink

    def refuse(path: str, **keywords: object) -> str:
        if path == "4":
            raise PermissionError(errno.EACCES, "Permission denied")
        return genuine(path, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(system, "readlink", refuse)
    assert (read_process(42, fake.path).fd_used, dict(read_process(42, fake.path).sockets)) == (None, {})


def test_descriptor_closed_while_it_is_listed_is_left_out(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the link a descriptor may be closed; the others come back."""
    home = fake.add(42, fds={3: "socket:[5]", 4: "socket:[6]"})
    once(monkeypatch, "readlink", (home / "fd" / "4").unlink)
    sockets, n_fds = read_socket_fds(42, fake.path)
    assert (sockets, n_fds) == ({5: [3]}, 2)


def test_pid_given_to_another_process_meanwhile_is_refused(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes must not get mixed in one record: the start time tells them apart."""
    home = fake.add(42, fds={3: "socket:[5]"})
    once(monkeypatch, "readlink", lambda: (home / "stat").write_text(stat_line("another", started=78)))
    with pytest.raises(ProcessLookupError, match="replaced"):
        read_process(42, fake.path)


@pytest.mark.parametrize("victim", ["stat", "cmdline", "limits"])
def test_process_that_vanishes_while_it_is_read_is_gone(
    fake: FakeProc, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """Whichever file is missing by then, the process is gone, and no other error escapes."""
    home = fake.add(42, fds={3: "socket:[5]"})
    once(monkeypatch, "readlink", (home / victim).unlink)
    with pytest.raises(ProcessLookupError):
        read_process(42, fake.path)


def test_process_whose_memory_is_gone_already_is_gone(fake: FakeProc) -> None:
    """An ending process has an empty `limits` for a moment; that is no error of ours."""
    (fake.add(42) / "limits").write_text("")
    with pytest.raises(ProcessLookupError, match="just ended"):
        read_process(42, fake.path)


@pytest.mark.parametrize("damaged", ["stat", "limits"])
def test_file_of_another_form_is_our_bug(fake: FakeProc, damaged: str) -> None:
    """What the kernel never writes is refused as such."""
    (fake.add(42) / damaged).write_text("\0garbage")
    with pytest.raises(InternalError):
        read_process(42, fake.path)


def test_name_that_is_no_utf8_is_read(fake: FakeProc) -> None:
    """A program may name itself by any bytes."""
    (fake.add(42, cmdline=b"") / "stat").write_bytes(stat_line("N").encode().replace(b"N", b"\xff\xfe"))
    assert read_process(42, fake.path).command == "[\ufffd\ufffd]"


@pytest.mark.parametrize("cmdline", [b"\0", b"\0\0\0"])
def test_command_line_without_a_character_is_told_by_the_name(fake: FakeProc, cmdline: bytes) -> None:
    """A command line of NULs only says as little as an empty one."""
    fake.add(42, cmdline=cmdline, name="server")
    assert read_command(42, fake.path) == "[server]"


def test_unreadable_namespace_is_0(fake: FakeProc) -> None:
    """Where the namespace may not be read it is not known, which is no error."""
    (fake.add(42) / "ns" / "net").unlink()
    assert read_netns(42, fake.path) == 0
    assert read_process(42, fake.path).netns == 0


def test_only_numbers_are_processes(fake: FakeProc) -> None:
    """/proc holds other things beside processes; pids come in ascending order, as numbers."""
    for name in ("100", "20", "3", "self", "net", "tty", "1a"):
        (fake.folder / name).mkdir()
    assert list_pids(fake.path) == [3, 20, 100]


def test_holders_are_found_with_each_of_their_descriptors(fake: FakeProc) -> None:
    """Only wanted sockets count; a process is named by its command; the gone and the others are skipped."""
    fake.add(5, fds={3: "socket:[70]", 4: "socket:[71]", 11: "socket:[70]"}, cmdline=b"master\0")
    fake.add(6, fds={3: "socket:[70]", 4: "socket:[99]"}, cmdline=b"worker\0")
    fake.add(7, fds={3: "socket:[99]"})
    found = find_holders({70, 71, 72}, [5, 6, 7, 8], fake.path)
    assert found.by_inode == {
        70: [Holder(5, 3, "master"), Holder(5, 11, "master"), Holder(6, 3, "worker")],
        71: [Holder(5, 4, "master")],
    }
    assert found.n_unreadable == 0


def test_processes_that_could_not_be_asked_are_counted(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner may be among them, so the caller is told how many there were."""
    for pid in (5, 6, 7):
        fake.add(pid, fds={3: "socket:[70]"})
    genuine = os.open

    def refuse(path: str, *arguments: int) -> int:
        if "/6/" in path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return genuine(path, *arguments)

    monkeypatch.setattr(system, "open", refuse)
    found = find_holders({70}, [5, 6, 7], fake.path)
    assert ([holder.pid for holder in found.by_inode[70]], found.n_unreadable) == ([5, 7], 1)


def test_parents_are_followed_to_the_top(fake: FakeProc) -> None:
    """Every ancestor comes back, up to the first process, whose parent is 0."""
    for pid, ppid in ((1, 0), (5, 1), (6, 5), (7, 6), (8, 5)):
        fake.add(pid, ppid=ppid)
    assert read_parents([7, 8], fake.path) == {7: 6, 6: 5, 8: 5, 5: 1, 1: 0}
    assert read_parents([], fake.path) == {}


def test_ancestor_that_is_gone_ends_the_line(fake: FakeProc) -> None:
    """What is known below it is kept."""
    fake.add(7, ppid=6)
    assert read_parents([7, 9], fake.path) == {7: 6}


def test_loop_of_parents_ends(fake: FakeProc) -> None:
    """Pids that are given anew while the tree is read can make a loop, which must not hang."""
    fake.add(6, ppid=7)
    fake.add(7, ppid=6)
    assert read_parents([6], fake.path) == {6: 7, 7: 6}


# The real /proc


def test_own_process_is_read() -> None:
    """Of this very process all is known."""
    with socket.socket() as one, socket.fromfd(one.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
        facts = read_process(os.getpid())
        assert facts.sockets[inode_of(one)] == tuple(sorted((one.fileno(), same.fileno())))
        assert (facts.pid, facts.ppid, facts.uid) == (os.getpid(), os.getppid(), os.getuid())
        assert facts.fd_used == len(os.listdir("/proc/self/fd")) or facts.fd_used > 5
        assert facts.netns == read_netns() == int(os.readlink("/proc/self/ns/net")[5:-1])
        assert facts.command == read_command("self")
        assert os.getpid() in list_pids()


def test_protocol_is_told_of_every_kind_of_socket() -> None:
    """TCP, also before it is connected and so listed in no table; UDP, Unix; a file has none."""
    pid = os.getpid()
    one, other = socket.socketpair()
    with one, other, socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, open(os.devnull) as file:
        assert [read_protocol(pid, sock.fileno()) for sock in (tcp, udp)] == ["TCP", "UDP"]
        assert read_protocol(pid, one.fileno()).startswith("UNIX")
        with pytest.raises(OSError, match=r"Errno (61|95)"):
            read_protocol(pid, file.fileno())
        with socket.socket(socket.AF_INET6) as tcp6:
            assert read_protocol(pid, tcp6.fileno()) == "TCPv6"
        with pytest.raises(FileNotFoundError):
            read_protocol(pid, 1 << 20)


def test_child_and_its_parents() -> None:
    """A child shares what it inherited, and its line of ancestors leads through this process."""
    with socket.socket() as shared, start_child(pass_fds=[shared.fileno()]) as child:
        assert read_process(child.pid).sockets[inode_of(shared)] == (shared.fileno(),)
        found = find_holders({inode_of(shared)}, [os.getpid(), child.pid])
        assert [(h.pid, h.fd) for h in found.by_inode[inode_of(shared)]] == [
            (os.getpid(), shared.fileno()),
            (child.pid, shared.fileno()),
        ]
        parents = read_parents([child.pid])
        assert parents[child.pid] == os.getpid()
        assert parents[os.getpid()] == os.getppid()


def test_real_zombie_is_told_as_ended() -> None:
    """A child that has ended and was not waited for."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    try:
        eventually(lambda: read_stat(pid).state == "Z")
        with pytest.raises(ProcessLookupError, match="zombie"):
            read_process(pid)
    finally:
        os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        read_process(pid)


@pytest.mark.parametrize(("name", "when"), [("open", 1), ("listdir", 1), ("readlink", 1), ("stat", 1)])
def test_real_process_that_ends_at_any_moment_is_gone(monkeypatch: pytest.MonkeyPatch, name: str, when: int) -> None:
    """Killed and waited for right before one of the calls: the process is gone, and no other error escapes."""
    with start_child() as child:
        once(monkeypatch, name, child.end, when=when)
        with pytest.raises(ProcessLookupError):
            read_process(child.pid)


@pytest.mark.parametrize(
    "read", [read_socket_fds, lambda pid: find_holders({1}, [pid])], ids=["read_socket_fds", "find_holders"]
)
def test_real_process_that_ends_while_its_descriptors_are_listed(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[int], object]
) -> None:
    """It is told as gone, as documented, and a search for holders goes on with the next process."""
    with start_child() as child:
        once(monkeypatch, "listdir", child.end)
        if read is read_socket_fds:
            with pytest.raises(ProcessLookupError):
                read(child.pid)
        else:
            assert read(child.pid) == proc_pid.Holders({}, 0)
