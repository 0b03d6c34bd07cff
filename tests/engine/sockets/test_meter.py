"""What a socket of which the kernel keeps no books sends is counted while it moves, and not only in the end."""

import socket
import threading

import pytest

import sockguard
from sockguard._core.books import PIECE
from waiting import eventually
from wrapped import shared

MUCH = bytes(range(256)) * 8192
"""Some 2 MB: more than the queues of a Unix socket hold."""


@pytest.fixture
def unix():
    """A guarded end, and a plain one."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with shared(), sockguard.guard_socket(one) as guarded, other:
        other.settimeout(10)
        yield guarded, other


def read(sock, n: int) -> bytes:
    """Receives n bytes; MSG_WAITALL does not, of a socket with a time-out."""
    data = b""
    while len(data) < n:
        data += sock.recv(n - len(data))
    return data


def file_of(tmp_path):
    path = tmp_path / "much"
    path.write_bytes(MUCH)
    return path.open("rb")


SEND = {
    "send": lambda sock, _: sock.send(MUCH),
    "sendmsg": lambda sock, _: sock.sendmsg([MUCH[:1000], memoryview(MUCH)[1000:]]),
    "sendfile": lambda sock, file: sock.sendfile(file),
    "sendfile, counted": lambda sock, file: sock.sendfile(file, 0, len(MUCH)),
}


@pytest.mark.parametrize("how", SEND)
def test_a_call_that_takes_long_shows_that_it_moves(unix, tmp_path, how):
    """A slow reader must not make it look idle: the count grows inside of the call, and all arrives in order."""
    guarded, other = unix
    results: list[int] = []
    with file_of(tmp_path) as file:
        sender = threading.Thread(target=lambda: results.append(SEND[how](guarded, file)))
        sender.start()
        arrived = read(other, PIECE)
        eventually(lambda: guarded.bytes_sent)
        assert 0 < guarded.bytes_sent < len(MUCH)
        assert sender.is_alive()
        arrived += read(other, len(MUCH) - len(arrived))
        sender.join(10)
    assert (arrived == MUCH, results, guarded.bytes_sent) == (True, [len(MUCH)], len(MUCH))


def test_what_need_not_wait_sends_what_there_is_room_for(unix):
    """Without blocking no more than a piece goes at once; what is told is what went."""
    guarded, other = unix
    guarded.setblocking(False)
    n = guarded.send(MUCH)
    assert 0 < n <= PIECE
    assert (read(other, n) == MUCH[:n], guarded.bytes_sent) == (True, n)


def test_parts_of_a_file_are_sent_as_asked_for(unix, tmp_path):
    """Offset, count and a count beyond the end; the file stands where the original would leave it."""
    guarded, other = unix
    with file_of(tmp_path) as file:
        for offset, count, n in ((5, 7, 7), (len(MUCH) - 9, None, 9), (len(MUCH) - 9, PIECE * 3, 9)):
            assert guarded.sendfile(file, offset, count) == n
            assert read(other, n) == MUCH[offset : offset + n]
            assert file.tell() == offset + n
        for count in (0, -1):
            with pytest.raises(ValueError, match="count must be a positive integer"):
                guarded.sendfile(file, 0, count)


def test_a_file_that_fails_half_way_is_not_sent_again(unix, tmp_path):
    """The original gives up on the system's way only where nothing was sent; from a later piece the error comes."""
    guarded, other = unix
    with file_of(tmp_path) as file:
        sender_ended = threading.Event()
        errors: list[BaseException] = []

        def send() -> None:
            try:
                guarded.sendfile(file)
            except OSError as error:
                errors.append(error)
            sender_ended.set()

        threading.Thread(target=send).start()
        read(other, PIECE * 2)
        other.close()
        assert sender_ended.wait(10)
    assert [type(error) for error in errors] in ([BrokenPipeError], [ConnectionResetError])
