"""The pytest plugin: options, markers and fixtures. Every run of pytest loads this file, so it does next to nothing.

What finds leaks is imported when somebody asks: by `--socket-leaks`, the ini option of the
same name, a marker `socket_leaks` or the fixtures.
"""

from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["no_socket_leaks", "socket_leak_guard"]

ACTIONS = ("off", "warn", "error")
MARKERS = (
    (
        "socket_leaks(action=None, grace=None, states=None): what to do about sockets that this test leaves open "
        '("off", "warn", "error"), how many seconds to wait for their end, and in which states they count.'
    ),
    (
        "allow_socket_leaks(reason, count=None, match=None): this test may leave sockets open: so many, "
        "or those that a line of socket_leaks_ignore matches."
    ),
)
INI: tuple[tuple[str, str, Any, Any], ...] = (
    ("socket_leaks", "what to do about sockets that a test leaves open: off, warn or error", "string", ""),
    (
        "socket_leaks_ignore",
        "sockets that may be left open: created-by:module.function, peer:host:port, port:N, path:/run/x.sock",
        "linelist",
        [],
    ),
    ("socket_leaks_grace", "seconds to wait for sockets that are about to be closed (default 0.5)", "string", ""),
    ("socket_leaks_check_failed", "judge tests that failed or were skipped, too", "bool", False),
    ("socket_leaks_baseline", "file with leaks that are known; see --socket-leaks-baseline", "string", ""),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("socket-leaks", "sockets that tests leave open (sockguard)")
    group.addoption(
        "--socket-leaks",
        choices=ACTIONS,
        help="what to do about sockets that a test leaves open: nothing, tell of them in the end, or fail that test",
    )
    group.addoption("--socket-leaks-report", metavar="FILE", help="write what was left open to this file, as JSON")
    group.addoption(
        "--socket-leaks-baseline",
        metavar="FILE",
        help="leaks that are known: with --socket-leaks=warn the file is written, "
        "with --socket-leaks=error those in it do not fail",
    )
    for name, meaning, kind, default in INI:
        parser.addini(name, meaning, type=kind, default=default)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers, and whatever finds leaks if that was asked for."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    asked = _asked(config)
    if asked not in ("", "off"):
        _activate(config)
    elif not asked and config.getoption("socket_leaks_report") and not hasattr(config, "workerinput"):
        from sockguard.pytest_plugin.files import try_out  # noqa: PLC0415 - see above

        try_out(config.getoption("socket_leaks_report"))  # the tests that ask are known only later


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Finds the tests that ask by themselves, unless it was said that nobody is to be asked."""
    if not _asked(config) and any(_asks(item) for item in items):
        _activate(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Says what is done about leaks, if anything is."""
    plugin = config.pluginmanager.get_plugin("sockguard-summary")
    return None if plugin is None else plugin.header()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - pytest-xdist's
    """Takes in what a worker of pytest-xdist has found.

    The main process collects nothing, so where tests ask by themselves it learns it now.
    """
    sent = (getattr(node, "workeroutput", None) or {}).get("sockguard")
    if sent:
        _activate(node.config)
        node.config.pluginmanager.get_plugin("sockguard-summary").receive(sent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says why there is no file, if one was asked for and nothing was judged."""
    report = config.getoption("socket_leaks_report")
    if report and not config.pluginmanager.has_plugin("sockguard-summary"):
        terminalreporter.line(f"{report} is not written: no test was judged for sockets left open")


def _asked(config: pytest.Config) -> str:
    return config.getoption("socket_leaks") or str(config.getini("socket_leaks"))


def _asks(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    is_by_fixture = "no_socket_leaks" in names or "socket_leak_guard" in names
    return is_by_fixture or item.get_closest_marker("socket_leaks") is not None


def _activate(config: pytest.Config) -> None:
    from sockguard.pytest_plugin.activation import activate  # noqa: PLC0415 - see above

    activate(config)


@pytest.fixture
def no_socket_leaks() -> None:
    """Has the test fail if it leaves a socket open, whatever the options say (except off)."""


@pytest.fixture
def socket_leak_guard() -> Iterator[Any]:
    """Tells which sockets are open: snapshot(), leaked(), assert_clean(), ignore_current()."""
    from sockguard._kernel.linux import require_linux  # noqa: PLC0415
    from sockguard.errors import KernelUnavailable  # noqa: PLC0415
    from sockguard.pytest_plugin.guard import SocketLeakGuard  # noqa: PLC0415

    try:
        require_linux("finding sockets that tests leave open")
    except KernelUnavailable as error:
        pytest.skip(str(error))
    with SocketLeakGuard() as guard:
        yield guard
