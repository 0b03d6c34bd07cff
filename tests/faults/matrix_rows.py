"""The rows of the fault matrix: what goes wrong, with which policy, and what shall come of it."""

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from faults import matrix_faults as faults
from faults.matrix_faults import OVER
from faults.matrix_scene import Scene

__all__ = ["ROWS", "Expect", "Row"]

DEFAULT = ("--fin-timeout", "2")


class Expect(enum.Enum):
    """What is right."""

    HEALED = "the connection leaves CLOSE_WAIT"
    ENDED = "the connection is ended"
    SURVIVED = "every byte arrives, and nothing is closed that moves"
    REPORTED = "reported, and nothing is closed"
    FREED = "the descriptor is released, or reported as a dead one"
    SERVED = "the server takes new clients again"


class Row(NamedTuple):
    """One fault."""

    name: str
    title: str
    fault: Callable[[Scene], None]
    expect: Expect = Expect.HEALED
    options: tuple[str, ...] = DEFAULT
    within: float = OVER
    """Seconds after the trouble began in which the connection must be over."""
    watch_for: float = OVER + 1.5
    """Seconds to look at a connection whose descriptor is still held."""
    event: str = ""
    program: tuple[str, ...] = ()
    """Options for the server."""
    tls: bool = False
    needs_nft: bool = False
    not_in: tuple[str, ...] = ()
    """Columns for which it makes no sense,"""
    why_not: str = ""
    """and why."""
    is_limit_in: tuple[str, ...] = ()
    """Columns in which the guard cannot help;"""
    within_in: Mapping[str, float] = {}
    """Columns in which it takes longer: seconds,"""
    limit: str = ""
    """and why, of either: what is lost there is no fault of the guard."""

    def within_of(self, column: str) -> float:
        """Tells in how many seconds a connection must be over on this kind of server."""
        return self.within_in.get(column, self.within)


ONE_PROCESS = "the process ends with its handler, and the kernel closes what it kept"

ROWS = {
    row.name: row
    for row in (
        Row("fin-ignored", "FIN read and ignored", faults.hang_up("ignore")),
        Row("fin-paused", "FIN while reading is paused, data unread", faults.hang_up("pause", 20_000)),
        Row(
            "fin-read-late",
            "FIN while busy; all is read after 3 s",
            faults.read_late,
            Expect.SURVIVED,
        ),
        Row("rst-paused", "RST while reading is paused", faults.reset_while_paused, Expect.FREED),
        Row(
            "half-close-stream",
            "half-close, then an answer of 5 s",
            faults.half_close_and("stream 100 0.05", lambda client: client.expect_chunks(100)),
            Expect.SURVIVED,
        ),
        Row(
            "half-close-late",
            "half-close, then an answer after 1.2 s",
            faults.half_close_and("answer 1.2", faults.late_answer),
            Expect.SURVIVED,
            options=("--fin-timeout", "6"),
        ),
        Row("half-close-silence", "half-close, then silence", faults.half_close_then_silence),
        Row(
            "vanished-idle",
            "peer vanished, idle: keepalive",
            faults.vanish("echo"),
            Expect.ENDED,
            (*DEFAULT, "--keepalive", "1,1,2"),
            needs_nft=True,
        ),
        Row(
            "vanished-unsent",
            "peer vanished, data unsent: user timeout",
            faults.vanish("stream 1000 0.05"),
            Expect.ENDED,
            (*DEFAULT, "--keepalive", "1,1,2,2"),
            within=OVER + 1,
            needs_nft=True,
        ),
        Row("zero-window", "slow reader, zero window for 5 s", faults.slow_reader, Expect.SURVIVED),
        Row(
            "zero-window-stalled",
            "dead reader: write_stall_timeout",
            faults.dead_reader,
            Expect.ENDED,
            (*DEFAULT, "--write-stall-timeout", "2"),
        ),
        Row(
            "mute",
            "mute client: first_byte_timeout",
            faults.mute,
            Expect.ENDED,
            (*DEFAULT, "--first-byte-timeout", "2"),
        ),
        Row(
            "drip",
            "slow-loris: min_receive_rate",
            faults.drip,
            Expect.ENDED,
            (*DEFAULT, "--min-receive-rate", "50", "--receive-rate-grace", "1"),
        ),
        Row(
            "blocked-loop",
            "event loop (or thread) blocked for 7 s",
            faults.blocked_loop,
            watch_for=9,
            within_in={"guarded-selectors": 9.0},
            limit="the guard works in `select()`, which a handler that blocks keeps from being called",
        ),
        Row("blocked-thread", "handler waits for a hung thread", faults.hang_up("thread")),
        Row("raises", "handler raises, the error is kept", faults.hang_up("raises")),
        Row("endless", "handler never ends", faults.hang_up("endless")),
        Row(
            "kept-writer",
            "handler done, connection kept in a set",
            faults.hang_up("keep"),
            not_in=("forking-tcp",),
            why_not=ONE_PROCESS,
        ),
        Row("fork-shared", "a forked child keeps the connection", faults.hang_up("fork")),
        Row("dup", "a duplicate is kept as a number", faults.hang_up("dup")),
        Row("detached", "detached to another object", faults.hang_up("detach")),
        Row("fd-reused", "descriptor number reused at once", faults.reused_numbers, Expect.SURVIVED),
        Row(
            "accept-queue",
            "acceptor stuck, accept queue full",
            faults.stuck_acceptor,
            Expect.REPORTED,
            (*DEFAULT, "--leak-after", "2"),
            event="accept_queue_stuck",
            program=("--backlog", "5"),
            not_in=("guarded-selectors",),
            why_not="the guard works in `select()`, in the very thread that is stuck",
        ),
        Row(
            "emfile-mute",
            "EMFILE by mute clients: first_byte_timeout",
            faults.no_descriptors(""),
            Expect.SERVED,
            (*DEFAULT, "--first-byte-timeout", "2"),
            program=("--children", "8"),
        ),
        Row(
            "emfile-leaked",
            "EMFILE by ignored FINs",
            faults.no_descriptors("ignore\n"),
            Expect.SERVED,
            program=("--children", "8"),
            is_limit_in=(
                *("threads", "threading-tcp", "forking-tcp", "selectors", "anyio-trio", "gevent"),
                "guarded-selectors",
            ),
            limit="TCP is healed, but the descriptors belong to handlers that hang, or are not in their selector any "
            "more: only the program can close them",
        ),
        Row("tls-no-close-notify", "TLS: FIN without close_notify", faults.tls_ends(b""), tls=True),
        Row("tls-truncated", "TLS: FIN within a record", faults.tls_ends(faults.PART_OF_A_RECORD), tls=True),
        Row(
            "tls-handshake",
            "TLS: handshake never finished",
            faults.half_a_handshake,
            Expect.ENDED,
            (*DEFAULT, "--first-byte-timeout", "2", "--idle-timeout", "2"),
            tls=True,
        ),
        Row(
            "dead-fd",
            "dead fd, hidden by keepalive",
            faults.hidden_by_keepalive,
            Expect.FREED,
            ("--fin-timeout", "5", "--leak-after", "2"),
            within=9,
            watch_for=9,
        ),
    )
}
