"""/proc/sys as numbers: the real one, made-up ones, and garbage."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.checkup import SYSCTLS
from sockguard._kernel.sysctl import parse_sysctl, read_sysctl
from sockguard.errors import InternalError

NAME = "net.ipv4.tcp_fin_timeout"


def set_sysctl(proc: Path, name: str, value: bytes) -> None:
    """Makes a file as the kernel would, below a /proc of our own."""
    path = proc / "sys" / name.replace(".", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)


@pytest.mark.parametrize("name", SYSCTLS)
def test_value_is_what_the_kernel_has_now(name: str) -> None:
    """Each sysctl that the doctor judges is read as `cat` would; one that this kernel lacks is None."""
    path = Path("/proc/sys", name.replace(".", "/"))
    assert read_sysctl(name) == (int(path.read_text()) if path.exists() else None)


def test_real_kernel_has_the_oldest_ones() -> None:
    """The control for the test above: not everything is None, and a default is in its range."""
    assert 1 <= (read_sysctl(NAME) or 0) <= 32767


@pytest.mark.parametrize(
    ("text", "value"), [(b"60\n", 60), (b"0\n", 0), (b"-1\n", -1), (b"2147483647\n", 2**31 - 1), (b"60", 60)]
)
def test_number_is_read_from_another_tree(tmp_path: Path, text: bytes, value: int) -> None:
    """Dots become folders below the /proc that is named; the line's end is no part of the number."""
    set_sysctl(tmp_path, NAME, text)
    assert read_sysctl(NAME, str(tmp_path)) == value


def test_sysctl_that_this_kernel_lacks_is_none(tmp_path: Path) -> None:
    """tcp_tw_recycle went with Linux 4.12; and without /proc/sys there is none at all."""
    assert read_sysctl("net.ipv4.tcp_tw_recycle", str(tmp_path)) is None
    set_sysctl(tmp_path, NAME, b"60\n")
    assert read_sysctl("net.ipv4.tcp_tw_recycle", str(tmp_path)) is None


def test_folder_is_no_sysctl() -> None:
    """What cannot be read as a file is None, as if it were not there."""
    assert read_sysctl("net.ipv4") is None


@pytest.mark.parametrize("text", ["", "\n", "cubic\n", "4096\t131072\t6291456\n", "0x10\n", "1.5\n", "6 0\n"])
def test_what_is_no_single_number_is_an_error(tmp_path: Path, text: str) -> None:
    """Words, several numbers or nothing are not taken for a setting; the error shows what was there."""
    with pytest.raises(InternalError, match="not a single number") as caught:
        parse_sysctl(text)
    assert repr(text) in str(caught.value)
    set_sysctl(tmp_path, NAME, text.encode())
    with pytest.raises(InternalError):
        read_sysctl(NAME, str(tmp_path))


def test_error_shows_no_more_than_a_line_of_it() -> None:
    """However long the garbage is, the message stays short."""
    with pytest.raises(InternalError) as caught:
        parse_sysctl("x" * 10_000)
    assert len(str(caught.value)) < 120


@given(st.integers(-(2**63), 2**64 - 1), st.sampled_from(["", "\n"]))
def test_every_number_is_read_back(value: int, end: str) -> None:
    """Whatever the kernel prints by %d, %ld or %lu."""
    assert parse_sysctl(f"{value}{end}") == value


@given(st.text())
def test_text_is_a_number_or_an_internal_error(text: str) -> None:
    """No garbage gets through as an error of another kind."""
    try:
        value = parse_sysctl(text)
    except InternalError:
        return
    assert value == int(text)
