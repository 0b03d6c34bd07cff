"""`sockguard doctor`: each finding has value, verdict, reason and remedy, and closed doors are named."""

import pytest

from children import start_child
from commands import AS_NOBODY, needs_root, refusing, run
from servers import teach

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

DOORS = ["sock_diag netlink", "/proc/net/tcp", "/proc/PID/fd of others", "pidfd_getfd", "SOCK_DESTROY", "setns"]
KEYS = {"name", "value", "verdict", "reason", "remedy"}


def findings(*words: object, prefix: tuple[str, ...] | None = None) -> dict[str, dict]:
    outcome = run("doctor", "--json", *words, **({"prefix": prefix} if prefix else {}))
    assert outcome.err == ""
    assert outcome.json["schema"] == 1
    found = outcome.json["findings"]
    assert outcome.status == int(any(finding["verdict"] == "bad" for finding in found))
    return {finding["name"]: finding for finding in found}


def test_findings_are_whole():
    """Every finding has all its parts; a remedy is there exactly where something is to be done."""
    found = findings()
    for finding in found.values():
        assert set(finding) == KEYS
        assert finding["verdict"] in ("ok", "note", "bad")
        assert finding["reason"]
        assert bool(finding["remedy"]) is (finding["verdict"] != "ok")
    assert set(DOORS) <= set(found)


def test_tells_the_sysctls_of_this_host():
    """The values are those that the kernel has now."""
    found = findings()
    for name in ("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.core.somaxconn"):
        with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as file:
            assert found[name]["value"] == file.read().strip()


def test_doors_are_open_to_root_and_nothing_is_left_behind():
    """/proc is open wherever tests run; trying the doors neither fails nor ends anything of others."""
    found = findings()
    for name in ("sock_diag netlink", "/proc/net/tcp"):
        assert (found[name]["value"], found[name]["verdict"]) == ("open", "ok")


@pytest.mark.parametrize(
    ("refused", "door"),
    [("netlink", "sock_diag netlink"), ("pidfd_getfd", "pidfd_getfd"), ("setns", "setns")],
)
def test_names_the_door_that_a_sandbox_has_closed(refused, door):
    """A refused system call is a closed door, with what is lost by it, why, and what would open it."""
    finding = findings(prefix=refusing(refused))[door]
    assert (finding["value"], finding["verdict"]) == ("closed", "note")
    assert "not permitted" in finding["reason"]
    assert finding["remedy"]


@needs_root
def test_user_without_rights_is_told_what_he_lacks():
    """Nobody can do with netlink and /proc, and may neither see others' descriptors, nor destroy, nor enter."""
    found = findings(prefix=AS_NOBODY)
    values = {name: found[name]["value"] for name in DOORS}
    assert values == {
        "sock_diag netlink": "open",
        "/proc/net/tcp": "open",
        "/proc/PID/fd of others": "closed",
        "pidfd_getfd": values["pidfd_getfd"],
        "SOCK_DESTROY": "closed",
        "setns": "closed",
    }


def test_budget_of_a_process():
    """--pid tells descriptors used and allowed of that process, and may be given again."""
    with start_child() as one, start_child() as two:
        one.do("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))")
        two.do("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))")
        found = findings("--pid", one.pid, "-p", two.pid)
    (first,) = [finding for name, finding in found.items() if f"pid {one.pid} " in name]
    (second,) = [finding for name, finding in found.items() if f"pid {two.pid} " in name]
    assert (first["value"], first["verdict"]) == ("3 of 100", "note")
    assert "up to 200" in first["remedy"]
    assert (second["value"], second["verdict"]) == ("3 of 5000", "ok")


def test_budget_that_is_nearly_used_up():
    """Nearly all descriptors used is bad: exit status 1, and the remedy names the report."""
    with start_child() as child:
        teach(
            child,
            """
            import os, resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            copies = [os.dup(0) for _ in range(90)]
            """,
        )
        found = findings("--pid", child.pid)
        text = run("doctor", "--pid", child.pid)
    (finding,) = [finding for name, finding in found.items() if f"pid {child.pid} " in name]
    assert (finding["value"], finding["verdict"]) == ("93 of 100", "bad")
    assert "sockguard report" in finding["remedy"]
    assert text.status == 1


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_no_line_is_longer_than_the_screen(columns):
    """At every width the table fits, and each finding is in it."""
    text = run("doctor", COLUMNS=str(columns)).out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= columns
    folded = "".join(text.split())
    assert all(name.replace(" ", "")[:10] in folded for name in DOORS)
