"""What every run of pytest loads: options, markers, fixtures, and nothing else until somebody asks."""

import pytest

from pytest_plugin.inside import collected, configured
from sockguard.pytest_plugin import entry
from sockguard.pytest_plugin.settings import SETTINGS


def test_options_have_no_default(tmp_path):
    """So that `off` can be told from not asked."""
    with configured(tmp_path) as config:
        found = [config.getoption(f"socket_leaks{name}") for name in ("", "_report", "_baseline")]
        assert found == [None, None, None]
        assert [config.getini(name) for name, *_ in entry.INI] == ["", [], "", False, ""]


def test_unknown_action_is_refused_by_the_command_line(tmp_path, capsys):
    """The choices are named."""
    with pytest.raises(pytest.UsageError), configured(tmp_path, "--socket-leaks=loud"):
        pass
    capsys.readouterr()


TESTS = """
import pytest
def test_plain(): pass
def test_demands(no_socket_leaks): pass
def test_asks(socket_leak_guard): pass
@pytest.mark.socket_leaks
def test_marked(): pass
@pytest.mark.allow_socket_leaks("why not")
def test_allowed(): pass
@pytest.mark.usefixtures("no_socket_leaks")
class TestClass:
    def test_in_class(self): pass
"""


def test_who_asks(tmp_path):
    """Tests that use a fixture of ours or have the marker; one that is merely allowed something does not."""
    asking = collected(tmp_path, TESTS, lambda items: {name for name, item in items.items() if entry._asks(item)})  # noqa: SLF001
    assert asking == {"test_demands", "test_asks", "test_marked", "test_in_class"}


@pytest.mark.parametrize(
    ("text", "is_active"), [("def test_a(): pass", False), ("def test_a(no_socket_leaks): pass", True)]
)
def test_active_if_a_test_asks(tmp_path, text, is_active):
    """Only then are there settings; the header says what is done."""

    def look(items):
        config = items["test_a"].config
        return SETTINGS in config.stash, entry.pytest_report_header(config)

    header = "socket leaks: off but for tests that ask for it (grace 0.5 s)"
    assert collected(tmp_path, text, look) == (is_active, header if is_active else None)
