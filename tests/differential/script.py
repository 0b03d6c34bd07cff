"""What the clients of the differential test do: scripts from a small grammar, and the one right transcript of each.

    script  = visit+                       one client, which connects again after each visit
    visit   = service, step*, end
    step    = Send | Pause | Await         Await: until all that is due by now has been received
    end     = "drain"                      half-close, and read up to the server's FIN
            | "read"                       read up to the server's FIN, which comes without ours (`ask`, last request)
            | "close"                      close when all that is due has been received
            | "leave"                      close when all is sent, without waiting for any answer (`stream`)
            | "reset"                      the same as "close", with RST
            | "abandon"                    close with the greeting unread, which makes the kernel send RST

What would depend on timing is not in the grammar. A RST can overtake data, so one is sent only when all that was sent
has been answered or nothing was. A client that closes has nothing on its way. An answer to a client that left is not
in the transcript of either end. Everything else that differs between two runs is a bug of somebody.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from differential.services import ASK, CLOSE, SERVICES, STREAM, Action, Service, blob

__all__ = [
    "KINDS",
    "MAX_VISITS",
    "Await",
    "Pause",
    "Script",
    "Send",
    "Tally",
    "Transcript",
    "Visit",
    "expected",
    "make_late",
    "make_patient",
    "make_script",
]

KINDS = ("threads", "selectors", "streams", "protocol")
"""The servers, each written in its own manner: see server.py."""

MAX_VISITS = 4
"""So many connections can one script make."""


class Send(NamedTuple):
    """A step: send a header and a piece of BLOB."""

    header: bytes
    offset: int
    size: int

    @property
    def data(self) -> bytes:
        """All the bytes to send."""
        return self.header + blob(self.offset, self.size)


class Pause(NamedTuple):
    """A step: do nothing for so many seconds."""

    seconds: float


class Await(NamedTuple):
    """A step: wait until so many bytes have been received since the connection was made."""

    received: int


class Visit(NamedTuple):
    """One connection: the client's part in it."""

    service: str
    steps: tuple[Send | Pause | Await, ...]
    end: str
    due: int
    """So many bytes come without a half-close."""
    is_slow: bool
    """Whether the client reads in small pieces, with pauses."""


class Script(NamedTuple):
    """One client: whom it visits, and its connections, one after the other."""

    index: int
    kind: str
    visits: tuple[Visit, ...]


class Transcript(NamedTuple):
    """What both ends must have seen of a visit."""

    client: str
    server: str
    patience: float
    """Seconds that it takes at least, by the pauses of both ends."""


class Tally:
    """A transcript in the making: counts and digests what was received, and marks the places."""

    def __init__(self) -> None:
        self.count = 0
        self.marks: list[str] = []
        self._digest = hashlib.blake2b(digest_size=6)

    def add(self, data: bytes) -> None:
        """Takes some more bytes."""
        self.count += len(data)
        self._digest.update(data)

    def mark(self, what: str) -> None:
        """Writes down what happened after the bytes received so far."""
        self.marks.append(f"{self.count}:{self._digest.hexdigest()}:{what}")

    def __str__(self) -> str:
        return " ".join(self.marks)


class Rehearsal:
    """The service played without a network: what comes out, and how long it takes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.out = bytearray()
        self.patience = 0.0
        self.closed = False
        self._do(service.opened())

    def receive(self, data: bytes) -> None:
        """Hands over bytes."""
        self._do(self._service.received(data))

    def end(self) -> None:
        """Hands over the FIN."""
        self._do(self._service.ended())

    def _do(self, actions: Iterator[Action]) -> None:
        for action in actions:
            if action is CLOSE:
                self.closed = True
            elif isinstance(action, float):
                self.patience += action
            else:
                self.out += action


def expected(visit: Visit) -> Transcript:
    """Works out the one right transcript."""
    rehearsal, read = Rehearsal(SERVICES[visit.service]()), Tally()
    marks = []
    for step in visit.steps:
        if isinstance(step, Send):
            read.add(step.data)
            rehearsal.receive(step.data)
        elif isinstance(step, Pause):
            rehearsal.patience += step.seconds
        else:
            marks.append(step.received)
    if visit.end == "drain":
        rehearsal.end()
    read.mark({"reset": "reset", "abandon": "reset", "read": "closed"}.get(visit.end, "eof"))
    client = _client_transcript(bytes(rehearsal.out), marks, visit.end)
    return Transcript(client, str(read), rehearsal.patience)


def _client_transcript(out: bytes, marks: list[int], end: str) -> str:
    tally, last = Tally(), 0
    for mark in marks:
        tally.add(out[last:mark])
        tally.mark("await")
        last = mark
    if end in ("drain", "read"):
        tally.add(out[last:])
        tally.mark("eof")
    return str(tally)


# The grammar

RARE_PAUSE, SHORT_PAUSE = 0.5, 0.02


class Author:
    """Writes one script; what it writes depends on the seed and the index alone."""

    def __init__(self, seed: int, index: int) -> None:
        self._random = random.Random(f"{seed}/{index}")
        self._index = index

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _size(self, largest: int = 200_000) -> int:
        """Chooses a size from 1 byte upwards, small ones as often as large ones."""
        return min(largest, int(largest ** self._random.random()) + self._random.randrange(3))

    def _pause(self) -> Iterator[Pause]:
        if self._chance(0.3):
            yield Pause(self._random.uniform(0, SHORT_PAUSE if self._chance(0.9) else RARE_PAUSE))

    def _send(self, service: str, *, first: bool, last: bool) -> Send:
        size, header = self._size(), b""
        if service == "ask":
            size = self._size(20_000)
            delay = self._random.randrange(20) if self._chance(0.9) else self._random.randrange(500)
            header = ASK.pack(size, delay, self._size(), last)
        elif service == "stream" and first:
            header = STREAM.pack(self._random.randrange(1, 8), self._random.randrange(30), self._size(60_000))
        return Send(header, self._random.randrange(1 << 19), size)

    def _end(self, service: str) -> str:
        ends = {
            "stream": ["drain", "drain", "drain", "leave"],
            "ask": ["drain", "read", "close", "reset"],
            "greet": ["drain", "drain", "close", "reset", "abandon"],
        }
        return self._random.choice(ends.get(service, ["drain", "drain", "close", "reset"]))

    def _visit(self) -> Visit:
        service = self._random.choice(list(SERVICES))
        end = self._end(service)
        n_sends = self._random.choice([0, 1, 1, 2, 2, 3, 5])
        if end == "abandon" or (end == "reset" and self._chance(0.2)):
            return Visit(service, (), end, 0, is_slow=False)  # at once, whatever the server may be about to say
        n_sends = max(n_sends, end == "read")
        steps, due = self._steps(service, n_sends, end)
        return Visit(service, steps, end, due, is_slow=self._chance(0.1))

    def _steps(self, service: str, n_sends: int, end: str) -> tuple[tuple[Send | Pause | Await, ...], int]:
        rehearsal = Rehearsal(SERVICES[service]())
        steps: list[Send | Pause | Await] = []
        for n in range(n_sends):
            steps += self._pause()
            send = self._send(service, first=n == 0, last=end == "read" and n == n_sends - 1)
            steps.append(send)
            rehearsal.receive(send.data)
            if self._chance(0.4) and not rehearsal.closed:
                steps.append(Await(len(rehearsal.out)))
        steps += self._pause()
        if end in ("close", "reset"):
            steps.append(Await(len(rehearsal.out)))
        return tuple(steps), len(rehearsal.out)

    def script(self) -> Script:
        """Writes a script as it comes."""
        n_visits = self._random.choice([1, 1, 1, 2, MAX_VISITS])
        return Script(self._index, self._random.choice(KINDS), tuple(self._visit() for _ in range(n_visits)))

    def patient(self) -> Script:
        """Writes a script of a minute or so, which a timer that only looks at the clock would cut short."""
        silence = self._random.randrange(20_000, 45_000)
        size = self._size(20_000)
        send, end = self._random.choice(
            [
                # A half-closed peer waits for the first word of the answer, for less than `fin_timeout` ...
                (Send(ASK.pack(size, silence, 1000, 0), 7, size), "drain"),
                (Send(STREAM.pack(1, silence, 5000), 7, size), "drain"),
                # ... or gets its answer piece by piece, for longer.
                (Send(STREAM.pack(5, 17_000, 5000), 7, size), "drain"),
                (Send(STREAM.pack(80, 1000, 20_000), 7, size), "drain"),
                # A peer that is there, and silent for longer.
                (Send(ASK.pack(size, 65_000, 1000, 1), 7, size), "read"),
            ]
        )
        service = "ask" if len(send.header) == ASK.size else "stream"
        visit = Visit(service, (send,), end, 0, is_slow=False)
        return Script(self._index, self._random.choice(KINDS), (visit,))

    def late(self, seconds: float) -> Script:
        """Writes a script whose half-closed client waits so long for the first word of its answer."""
        milliseconds, kind = int(seconds * 1000), KINDS[self._index % len(KINDS)]
        if self._chance(0.5):
            visit = Visit("ask", (Send(ASK.pack(50, milliseconds, 5000, 0), 7, 50),), "drain", 0, is_slow=False)
        else:
            visit = Visit("stream", (Send(STREAM.pack(1, milliseconds, 5000), 7, 50),), "drain", 0, is_slow=False)
        return Script(self._index, kind, (visit,))


def make_script(seed: int, index: int) -> Script:
    """Writes the script of this number."""
    return Author(seed, index).script()


def make_patient(seed: int, index: int) -> Script:
    """Writes a script of this number that takes a minute or so."""
    return Author(seed, index).patient()


def make_late(seed: int, index: int, seconds: float) -> Script:
    """Writes a script of this number whose answer comes late, to a half-closed client."""
    return Author(seed, index).late(seconds)
