"""What a handler made of callbacks does wrong, by the word in the connection's first line.

It has the methods of asyncio.Protocol; asyncio_protocol.py runs it on asyncio's and on
uvloop's transports, selectors_loop.py on one that it made itself. The words are those of
blocking.py.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import common

__all__ = ["Conversation"]

CLOSE, STAY_OPEN = False, True
"""What eof_received() answers."""


def nothing(*_: object) -> None:
    """Does nothing with what came."""


class Conversation:
    """One connection, from its first line on."""

    def __init__(self, call_later: Callable[..., Any]) -> None:
        self.call_later = call_later
        self.line = b""
        self.on_data: Callable[[bytes], object] = self.first_line
        self.on_eof: Callable[[], bool] = lambda: CLOSE
        self.on_room: Callable[[], object] = nothing
        self.has_room = True
        self.n_read = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        common.OPEN.add(self)

    def connection_lost(self, error: object) -> None:
        self.has_room = False
        common.OPEN.discard(self)

    def data_received(self, data: bytes) -> None:
        self.on_data(data)

    def eof_received(self) -> bool:
        return self.on_eof()

    def pause_writing(self) -> None:
        self.has_room = False

    def resume_writing(self) -> None:
        self.has_room = True
        self.on_room()

    def first_line(self, data: bytes) -> None:
        """Waits for the whole line, and does what it says."""
        self.line += data
        head, end, rest = self.line.partition(b"\n")
        if not end:
            return
        word, numbers = common.talk(head)
        self.on_data = nothing
        self.transport.write(b"ok\n")
        getattr(self, f"do_{word}")(*numbers)
        if rest:
            self.on_data(rest)

    @property
    def fd(self) -> int:
        return self.transport.get_extra_info("socket").fileno()

    def stay_open(self) -> None:
        self.on_eof = lambda: STAY_OPEN

    def do_echo(self) -> None:
        self.on_data = self.transport.write

    def do_ignore(self) -> None:
        self.stay_open()

    def do_pause(self) -> None:
        self.transport.pause_reading()

    def do_late(self, after: float) -> None:
        self.transport.pause_reading()
        self.on_data = self.count
        self.on_eof = self.tell_count
        self.call_later(after, self.transport.resume_reading)

    def count(self, data: bytes) -> None:
        self.n_read += len(data)

    def tell_count(self) -> bool:
        common.note(f"read {self.n_read}")
        self.transport.write(b"done")
        return CLOSE

    def do_stream(self, n: float, every: float) -> None:
        self.stay_open()
        self.send_next(0, n, every)

    def send_next(self, number: int, n: float, every: float) -> None:
        if number >= n:
            self.transport.close()
            return
        self.transport.write(common.chunk(number))
        self.call_later(every, self.send_next, number + 1, n, every)

    def do_answer(self, after: float) -> None:
        def answer() -> None:
            self.transport.write(b"late answer")
            self.transport.close()

        self.on_eof = lambda: self.call_later(after, answer) and STAY_OPEN

    def do_flood(self, n: float) -> None:
        numbers = iter(range(int(n)))

        def go_on() -> None:
            while self.has_room:
                number = next(numbers, None)
                if number is None:
                    self.transport.close()
                    return
                self.transport.write(common.chunk(number))

        self.on_room = go_on
        go_on()

    def do_block(self, seconds: float) -> None:
        common.native["sleep"](seconds)

    def do_thread(self) -> None:
        self.transport.pause_reading()
        threading.Thread(target=common.native["sleep"], args=(3600,), daemon=True).start()

    def do_raises(self) -> None:
        def fail() -> bool:
            message = "the handler fails on the way to close()"
            raise RuntimeError(message)

        self.on_eof = fail

    def do_endless(self) -> None:
        self.transport.pause_reading()
        self.call_later(0.05, self.do_endless)

    def do_keep(self) -> None:
        common.KEPT.add(self.transport)
        self.stay_open()

    def do_fork(self) -> None:
        common.fork_that_keeps()
        self.transport.close()

    def do_dup(self) -> None:
        common.FDS.append(os.dup(self.fd))

    def do_detach(self) -> None:
        common.new_owner(os.dup(self.fd))
        self.transport.close()

    def do_hold(self, seconds: float) -> None:
        self.on_eof = lambda: self.call_later(seconds, self.transport.close) and STAY_OPEN

    def do_keepalive(self) -> None:
        common.probe_often(self.fd)
        self.stay_open()
