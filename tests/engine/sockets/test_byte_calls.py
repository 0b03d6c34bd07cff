"""What a guarded socket does when a call comes back empty."""

import ctypes
import socket

import pytest

from loopback import state_of
from waiting import eventually
from wrapped import pair, shared


class Header(ctypes.Structure):
    """A buffer without a length."""

    _fields_ = (("length", ctypes.c_uint32),)


@pytest.mark.parametrize("make", [Header, ctypes.c_int * 3, lambda: bytearray(4)])
def test_whatever_is_a_buffer_finds_the_end(make):
    """A C structure has no len(), and recv_into() takes it all the same; the end is found by it as by any other."""
    with shared(half_close="close"), pair() as p:
        p.client.close()
        eventually(lambda: state_of(p.server) == 8)
        assert p.server.recv_into(make()) == 0
        assert " fd=-1," in repr(p.server)


def test_no_room_is_no_end():
    """Nothing was asked for, so that nothing came says nothing."""
    with shared(half_close="close"), pair() as p:
        p.client.close()
        eventually(lambda: state_of(p.server) == 8)
        assert (p.server.recv_into(bytearray()), p.server.recv(0)) == (0, b"")
        assert p.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
