"""A policy in a file: which table is read, and what is said of a file that cannot be."""

import pytest

from sockguard._core.policy import Keepalive, Layer, Policy
from sockguard.cli.policy_file import read_policy_file
from sockguard.errors import PolicyError, UsageError


@pytest.fixture
def write(tmp_path):
    """Writes a file and gives its path."""

    def write(text, name="pyproject.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def complaint(path):
    """Gives the error of reading a file, and what it says behind the path."""
    with pytest.raises(UsageError) as caught:
        read_policy_file(path)
    return str(caught.value).replace(path, "FILE")


EXAMPLE = """
[project]
name = "x"

[tool.other]
fin_timeout = 0

[tool.sockguard]
mode = "observe"
fin_timeout = 2
leak_after = false
keepalive = { idle = 120, interval = 15, count = 4 }
"""


def test_table_of_a_pyproject_is_read(write):
    """Other tables are other people's; the layer is named after the file."""
    path = write(EXAMPLE)
    layer = read_policy_file(path)
    assert layer == Layer(
        path, {"mode": "observe", "fin_timeout": 2.0, "leak_after": None, "keepalive": Keepalive(120)}
    )
    assert Policy.from_layers(layer).fin_timeout == 2


@pytest.mark.parametrize("head", ["", "[tool.sockguard]\n"])
def test_file_of_its_own_is_all_policy(write, head):
    """Unless it has the table: then that is the policy here too."""
    path = write(head + "fin_timeout = 3", "guard.toml")
    assert read_policy_file(path) == Layer(path, {"fin_timeout": 3.0})


@pytest.mark.parametrize("text", ["", "tool = 3", "[tool.other]\nx = 1"])
def test_pyproject_without_the_table_is_refused(write, text):
    """Whoever names it wants its table; that it is missing is told together with how it looks."""
    assert complaint(write(text)) == (
        "FILE: there is no table [tool.sockguard]; add it, with lines such as: fin_timeout = 2"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.sockguard]\nreceive_rate_grace = 0",
         "receive_rate_grace=0 (from FILE, line 2) makes no sense: give seconds above 0, at most 1000000000"),
        ("[tool.other]\nfin_timout = 1\n[tool.sockguard]\n\nfin_timout = 2",
         "fin_timout=2 (from FILE, line 5) makes no sense: there is no such field, the nearest is fin_timeout"),
        ("[tool.sockguard]\nkeepalive = { idle = 0 }",
         "keepalive.idle=0 (from FILE, line 2) makes no sense: give seconds, a whole number from 1 to 32767"),
        ("[tool.sockguard.keepalive]\nidle = 0",
         "keepalive.idle=0 (from FILE, line 2) makes no sense: give seconds, a whole number from 1 to 32767"),
        ("[tool.sockguard]\nkeepalive.idle = 0",
         "keepalive.idle=0 (from FILE, line 2) makes no sense: give seconds, a whole number from 1 to 32767"),
        ("tool.sockguard.drain_bytes = 0",
         "drain_bytes=0 (from FILE) makes no sense: give bytes, a whole number from 1 to 2147483647"),
        ("[tool]\nsockguard = 3",
         "policy=3 (from FILE) makes no sense: give a table of fields and their values"),
    ],
)  # fmt: skip
def test_value_that_makes_no_sense_is_told_with_its_line(write, text, said):
    """Path, line and remedy stand in one sentence; where the line is written in an unusual way, it is left out."""
    assert complaint(write(text)) == said


def test_value_in_a_file_of_its_own_is_told_with_its_line(write):
    """Its lines count from the first, as there is no table to begin with."""
    path = write("fin_timeout = 0", "guard.toml")
    with pytest.raises(PolicyError) as caught:
        read_policy_file(path)
    assert (caught.value.field, caught.value.source) == ("fin_timeout", f"{path}, line 1")


def test_file_that_is_no_toml_is_told_with_its_line(write):
    """The parser's own words, with line and column, and what to look for."""
    said = complaint(write("[tool.sockguard]\nmode = observe"))
    assert said.startswith("FILE: ")
    assert "(at line 2, column 8)" in said
    assert said.endswith(": this is no TOML; check quotes, brackets and commas there")


def test_file_that_is_not_there_is_a_usage_error(tmp_path):
    """One line for the command line, as for every other argument; a folder is no file either."""
    assert complaint(str(tmp_path / "x")) == (
        "FILE: No such file or directory; give the path of a TOML file that can be read"
    )
    assert complaint(str(tmp_path)) == "FILE: Is a directory; give the path of a TOML file that can be read"


def test_file_that_is_not_utf8_is_a_usage_error(write):
    """TOML is UTF-8 by its definition."""
    assert complaint(write(b"# \xff")) == "FILE: byte 2 is not UTF-8; TOML files are, so save it as UTF-8"
