"""What options, ini file and markers come to, and what is refused: value and remedy are named."""

import os

import pytest

from pytest_plugin.inside import collected, configured
from sockguard._core.ignoring import parse_rule
from sockguard._core.leftovers import Leftover
from sockguard.pytest_plugin.settings import Allowed, Settings, Terms, known_states, read_settings, terms_of
from sockguard.testing import GRACE

PLAIN = Settings("error", 0.5, (), checks_failed=False, report="", baseline="")


def leftover(**fields):
    """Makes a record of which only some fields matter."""
    made = dict.fromkeys(Leftover._fields, "")
    return Leftover(**made | {"created_by": ("app.connect",), "protocol": "TCP", "state": "ESTABLISHED"} | fields)


def test_defaults(tmp_path):
    """Nothing is asked for: off, half a second, no lines, no files."""
    with configured(tmp_path) as config:
        assert read_settings(config) == PLAIN._replace(action="off", grace=GRACE)


def test_everything_given(tmp_path):
    """The command line goes before the ini file; a baseline is in the root folder, a report in that of now."""
    ini = (
        "socket_leaks = error\nsocket_leaks_grace = 0\nsocket_leaks_check_failed = true\n"
        "socket_leaks_baseline = a.json\nsocket_leaks_ignore =\n    port: 80\n    created-by:app.*\n"
    )
    words = ("--socket-leaks=warn", "--socket-leaks-report=r.json", "--socket-leaks-baseline=b.json")
    with configured(tmp_path, *words, ini=ini) as config:
        settings = read_settings(config)
    rules = (parse_rule("port:80"), parse_rule("created-by:app.*"))
    assert settings == Settings("warn", 0.0, rules, True, os.path.abspath("r.json"), str(tmp_path / "b.json"))
    with configured(tmp_path, ini=ini) as config:
        assert (read_settings(config).action, read_settings(config).baseline) == ("error", str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("socket_leaks = ERROR", "socket_leaks = 'ERROR' makes no sense: write off, warn or error"),
        ("socket_leaks = yes please", "socket_leaks = 'yes please' makes no sense"),
        ("socket_leaks_grace = nan", "socket_leaks_grace = 'nan' makes no sense: give seconds, 0 or more"),
        ("socket_leaks_grace = -0.1", "socket_leaks_grace = '-0.1' makes no sense"),
        ("socket_leaks_grace = inf", "socket_leaks_grace = 'inf' makes no sense"),
        ("socket_leaks_grace = 1s", "socket_leaks_grace = '1s' makes no sense"),
        (
            "socket_leaks_ignore = port:http",
            "socket_leaks_ignore: 'port:http' says not what to ignore: write created-by:",
        ),
        ("socket_leaks_ignore = port:²", "socket_leaks_ignore: 'port:²' says not"),
        ("socket_leaks_ignore = peer:", "socket_leaks_ignore: 'peer:' says not"),
        ("socket_leaks_ignore = :x", "socket_leaks_ignore: ':x' says not"),
        ("socket_leaks_ignore = Port:80", "socket_leaks_ignore: 'Port:80' says not"),
    ],
)
def test_nonsense_in_the_ini_file(tmp_path, line, complaint):
    """It is a usage error, which pytest tells in one line."""
    with configured(tmp_path, ini=line + "\n") as config, pytest.raises(pytest.UsageError) as caught:
        read_settings(config)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "created-by:app.<lambda>",
        "created-by:*é%(x)s[",
        "path:/tmp/a b; c = d #e",
        "path:@\\x00*",
        "peer:[::1]:80",
        "port:080",
    ],
)
def test_odd_characters_in_ignore_lines_stay_as_they_are(tmp_path, line):
    """The ini file has no quoting, and needs none."""
    with configured(tmp_path, ini=f"socket_leaks_ignore =\n    {line}\n    # a remark\n\n") as config:
        assert [str(rule) for rule in read_settings(config).ignore] == [line]


MARKED = """
import pytest
def test_plain(): pass
def test_demands(no_socket_leaks): pass
@pytest.mark.socket_leaks
def test_bare(): pass
@pytest.mark.socket_leaks("warn", grace=2, states="CLOSE_WAIT")
def test_all(): pass
@pytest.mark.socket_leaks(states=["CLOSE", "CLOSE_WAIT"])
def test_states(): pass
@pytest.mark.allow_socket_leaks("the pool is shared", count=2, match="port:80")
def test_allowed(): pass
"""


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("off", {"test_plain": "off", "test_demands": "error", "test_bare": "error", "test_all": "warn"}),
        ("warn", {"test_plain": "warn", "test_demands": "error", "test_bare": "warn", "test_all": "warn"}),
        ("error", {"test_plain": "error", "test_demands": "error", "test_bare": "error", "test_all": "warn"}),
    ],
)
def test_action_of_a_test(tmp_path, action, expected):
    """The fixture always demands; a marker without an action does what the options say, and demands if they are off."""
    settings = PLAIN._replace(action=action)
    found = collected(tmp_path, MARKED, lambda items: {n: terms_of(items[n], settings).action for n in expected})
    assert found == expected


def test_terms_of_a_test(tmp_path):
    """Each argument of the markers has its effect, and what is not given stays."""
    names = ("test_plain", "test_all", "test_states", "test_allowed")
    found = collected(tmp_path, MARKED, lambda items: [terms_of(items[name], PLAIN) for name in names])
    assert found == [
        Terms("error", 0.5, None, None),
        Terms("warn", 2.0, frozenset({"CLOSE_WAIT"}), None),
        Terms("error", 0.5, frozenset({"CLOSE", "CLOSE_WAIT"}), None),
        Terms("error", 0.5, None, Allowed(2, parse_rule("port:80"))),
    ]


MISSING = "@pytest.mark.allow_socket_leaks: missing a required argument: 'reason'"


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("socket_leaks('loud')", "socket_leaks(action='loud') makes no sense: give off, warn or error"),
        ("socket_leaks(grace='soon')", "socket_leaks(grace=...) = 'soon' makes no sense: give seconds"),
        ("socket_leaks(loud=True)", "@pytest.mark.socket_leaks: got an unexpected keyword argument 'loud': write so"),
        (
            "socket_leaks(states=['CLOSE_WAIT', 'shut'])",
            "@pytest.mark.socket_leaks: states='shut' makes no sense: give s",
        ),
        (
            "socket_leaks(states=8)",
            "@pytest.mark.socket_leaks: states=8 makes no sense: give some of BOUND_INACTIVE, C",
        ),
        ("socket_leaks(states=[None])", "@pytest.mark.socket_leaks: states=None makes no sense: give some of"),
        ("socket_leaks(states=[])", "@pytest.mark.socket_leaks: states=[] makes no sense: give some of"),
        ("allow_socket_leaks", f"{MISSING}: write allow_socket_leaks(reason, *, count=None, match=None)"),
        (
            "allow_socket_leaks('x', 2)",
            "@pytest.mark.allow_socket_leaks: too many positional arguments: write allow_soc",
        ),
        ("allow_socket_leaks('')", "@pytest.mark.allow_socket_leaks: the reason '' makes no sense: say why"),
        ("allow_socket_leaks(3)", "@pytest.mark.allow_socket_leaks: the reason 3 makes no sense: say why"),
        (
            "allow_socket_leaks('x', count='2')",
            "@pytest.mark.allow_socket_leaks: count='2' makes no sense: give the number",
        ),
        ("allow_socket_leaks('x', count=-1)", "@pytest.mark.allow_socket_leaks: count=-1 makes no sense"),
        ("allow_socket_leaks('x', match='80')", "@pytest.mark.allow_socket_leaks: '80' says not what to ignore"),
    ],
)
def test_nonsense_in_markers(tmp_path, marker, complaint):
    """It is a usage error that names the marker."""
    text = f"import pytest\n@pytest.mark.{marker}\ndef test_it(): pass\n"

    def ask(items):
        with pytest.raises(pytest.UsageError) as caught:
            terms_of(items["test_it"], PLAIN)
        return str(caught.value)

    assert collected(tmp_path, text, ask).startswith(complaint)


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ("CLOSE-WAIT", "CLOSE_WAIT"),
        ("close-wait", "CLOSE_WAIT"),
        ("CLOSE_WAIT", "CLOSE_WAIT"),
        ("ESTAB", "ESTABLISHED"),
        ("established", "ESTABLISHED"),
        ("FIN-WAIT-1", "FIN_WAIT1"),
        ("fin_wait2", "FIN_WAIT2"),
        ("SYN-SENT", "SYN_SENT"),
        ("SYN-RECV", "SYN_RECV"),
        ("LAST-ACK", "LAST_ACK"),
        ("LISTEN", "LISTEN"),
        ("listening", "LISTEN"),
        ("closed", "CLOSE"),
        ("CLOSING", "CLOSING"),
        ("UNCONN", "UNCONNECTED"),
        ("unconnected", "UNCONNECTED"),
    ],
)
def test_states_may_be_written_as_others_write_them(given, state):
    """As `ss` prints them, as its filters have them, as the kernel has them; ours are those of the messages."""
    assert known_states([given]) == {state}


WEB, OTHER = leftover(remote="10.0.0.1:80"), leftover(remote="10.0.0.1:81", state="CLOSE_WAIT")


@pytest.mark.parametrize(
    ("states", "allowed", "expected"),
    [
        (None, None, [WEB, OTHER]),
        (frozenset({"CLOSE_WAIT"}), None, [OTHER]),
        (None, Allowed(None, None), []),
        (None, Allowed(2, None), []),
        (None, Allowed(1, None), [WEB, OTHER]),
        (None, Allowed(0, None), [WEB, OTHER]),
        (None, Allowed(None, parse_rule("port:80")), [OTHER]),
        (None, Allowed(1, parse_rule("port:80")), [OTHER]),
        (None, Allowed(0, parse_rule("port:80")), [WEB, OTHER]),
        (frozenset({"CLOSE_WAIT"}), Allowed(1, None), []),
    ],
)
def test_what_breaks_the_terms(states, allowed, expected):
    """States that do not count are no matter; of what is allowed one too many has all of them told."""
    assert Terms("error", 0.5, states, allowed).broken_by([WEB, OTHER]) == expected
