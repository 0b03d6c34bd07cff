"""Heartbeats on an event loop: when they are sent, to whom the answer belongs, and when a peer is lost."""

import asyncio
import contextlib
import time

import pytest

import sockguard._process as process
from loops import EACH_LOOP, address_of, client_tls, fresh_guard, run, server_tls, skip_where_blind, until
from sockguard import aio
from sockguard._core.policy import Heartbeat, Policy
from sockguard.aio import connection_of

pytestmark = pytest.mark.slow

NOTICE = Policy(heartbeat=Heartbeat(b":\n", every=0.2))
ASKING = Policy(heartbeat=Heartbeat(b"PING\n", every=0.3, timeout=1.0, expect=b"PONG\n"))
HURRIED = Policy(heartbeat=Heartbeat(b"PING\n", every=0.2, timeout=0.4, expect=b"PONG\n"), fin_timeout=1000)


@pytest.fixture(autouse=True)
def told():
    """Each test has a guard of its own, which must not fail; gives the names of the events so far."""
    with fresh_guard() as events:
        yield events


async def read_on(reader, writer):
    """A handler that only reads, and keeps what it got where the test finds it."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1000):
            writer.got = getattr(writer, "got", b"") + data


class Peer:
    """The other end of a guarded stream of a server, without a guard; it answers questions if it is told to."""

    def __init__(self, policy, handler=read_on, answers=True, **options):
        self.policy, self.handler, self.answers, self.options = policy, handler, answers, options
        self.lines = []
        self.writers = []
        self.blocks_for = 0.0

    async def __aenter__(self):
        async def handle(reader, writer):
            self.writers.append(writer)
            await self.handler(reader, writer)

        self.server = await aio.start_server(handle, "127.0.0.1", 0, policy=self.policy, **self.options)
        tls = client_tls() if self.options else None
        self.reader, self.writer = await asyncio.open_connection(*address_of(self.server), ssl=tls)
        self.task = asyncio.create_task(self.read())
        await until(lambda: self.writers)
        return self

    @property
    def connection(self):
        return connection_of(self.writers[0])

    async def read(self):
        with contextlib.suppress(ConnectionError):
            while line := await self.reader.readline():
                self.lines.append(line)
                if self.blocks_for:
                    time.sleep(self.blocks_for)  # noqa: ASYNC251 - that is what it is about
                    for _ in range(3):
                        await asyncio.sleep(0)  # what has fallen due meanwhile is done
                if self.answers and line == b"PING\n":
                    self.writer.write(b"PONG\n")

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task])
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        self.server.close()


@EACH_LOOP
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_notice_is_sent_to_a_silent_peer(kind, tls):
    """Again and again, while nothing moves; nobody answers, and nobody is lost."""

    async def main():
        async with Peer(NOTICE, **({"ssl": server_tls()} if tls else {})) as peer:
            await until(lambda: peer.lines == [b":\n"] * 3)
            assert peer.connection.state == "open"

    run(kind, main)


async def keep_writing(writer, data):
    """Writes for 1.5 s, every 0.05 s, and gives the longest time between two writes."""
    last = time.monotonic()
    until_at, gap = last + 1.5, 0.0
    while last < until_at:
        writer.write(data)
        await asyncio.sleep(0.05)
        last, gap = time.monotonic(), max(gap, time.monotonic() - last)
    return gap


@EACH_LOOP
def test_nothing_is_sent_while_bytes_flow(kind):
    """In either direction: the kernel tells when the last one came or went."""
    skip_where_blind(kind)

    async def main():
        async with Peer(Policy(heartbeat=Heartbeat(b":\n", every=0.6))) as peer:
            for writer, data in ((peer.writer, b"x"), (peer.writers[0], b"y\n")):
                gap = await keep_writing(writer, data)
                assert gap > 0.5 or b":\n" not in peer.lines  # else it was us who got no processor for so long
                peer.lines.clear()
            await until(lambda: b":\n" in peer.lines)

    run(kind, main)


@EACH_LOOP
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_an_answer_is_not_the_programs(kind, tls):
    """It is taken out of what the handler reads, the round trip is kept, and the rest arrives unchanged."""

    async def main():
        async with Peer(ASKING, **({"ssl": server_tls()} if tls else {})) as peer:
            await until(lambda: peer.connection.rtt is not None)
            assert 0 <= peer.connection.rtt < 5
            peer.writer.write(b"no PONG\n")
            n = len(peer.lines)
            await until(lambda: len(peer.lines) >= n + 2)
            assert peer.connection.state == "open"
            assert peer.writers[0].got == b"no PONG\n"

    run(kind, main)


@EACH_LOOP
def test_a_peer_that_does_not_answer_is_lost(kind, told):
    """The guard ends the connection: the handler reads the end, and is told why."""
    ended = []

    async def handle(reader, writer):
        ended.append(await reader.read())
        ended.append(connection_of(writer).ended_by)

    async def main():
        async with Peer(HURRIED, handle, answers=False) as peer:
            await until(lambda: len(ended) == 2)
            assert peer.lines == [b"PING\n"]

    run(kind, main)
    assert ended[0] == b""
    assert "had not answered a heartbeat" in ended[1]
    assert "connection_closed" in told()


@EACH_LOOP
def test_nothing_goes_into_the_midst_of_a_message(kind):
    """While the program is sending() no heartbeat is sent, however long that takes."""
    ready = []

    async def handle(reader, writer):
        with connection_of(writer).sending():
            writer.write(b"one ")
            await asyncio.sleep(1.0)
            writer.write(b"message\n")
        ready.append(1)
        await reader.read()

    async def main():
        async with Peer(NOTICE, handle) as peer:
            await until(lambda: len(peer.lines) >= 2)
            assert peer.lines[:2] == [b"one message\n", b":\n"]
            assert ready

    run(kind, main)


@EACH_LOOP
@pytest.mark.parametrize("what", ["unread", "paused"])
def test_our_own_delay_costs_no_peer(kind, what):
    """It has answered, or has no chance to be heard: as long as we do not read, no silence is its own."""

    async def main():
        async with Peer(HURRIED, answers=what == "unread") as peer:
            await until(lambda: peer.writers)
            transport = peer.writers[0].transport
            transport.pause_reading()
            peer.writer.write(b"data\n" if what == "unread" else b"")
            await asyncio.sleep(1.5)
            assert peer.connection.state == "open"
            transport.resume_reading()
            if what == "paused":  # now it is the peer's
                await until(lambda: peer.connection.state == "closed")
            else:
                await until(lambda: peer.connection.rtt is not None)

    run(kind, main)


@EACH_LOOP
def test_a_late_loop_costs_no_peer(kind):
    """The program blocks its event loop for longer than the answer may take; that comes soon after."""

    async def main():
        async with Peer(HURRIED) as peer:
            peer.blocks_for = 0.9
            await until(lambda: peer.lines == [b"PING\n"] * 3)
            assert (peer.connection.state, peer.connection.ended_by) == ("open", None)

    run(kind, main)


@EACH_LOOP
def test_it_goes_on_below_start_tls(kind):
    """In TLS from then on: the questions arrive as text, and the answers are still not the program's."""

    async def handle(reader, writer):
        await writer.start_tls(server_tls())
        await read_on(reader, writer)

    async def main():
        async with Peer(ASKING, handle) as peer:
            peer.task.cancel()
            await asyncio.wait([peer.task])
            await peer.writer.start_tls(client_tls())
            peer.task = asyncio.create_task(peer.read())
            await until(lambda: peer.lines.count(b"PING\n") >= 2)
            await until(lambda: peer.connection.rtt is not None)
            assert getattr(peer.writers[0], "got", b"") == b""

    run(kind, main)


class Buffered(asyncio.BufferedProtocol):
    """Has a tiny buffer of its own, and keeps all that comes."""

    def __init__(self):
        self.got = b""
        self.ended = []

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, _):
        self.buffer = bytearray(3)
        return self.buffer

    def buffer_updated(self, n):
        self.got += self.buffer[:n]

    def eof_received(self):
        self.ended.append("eof")

    def connection_lost(self, error):
        self.ended.append(error)


@EACH_LOOP
def test_answers_are_taken_out_for_a_buffered_protocol_too(kind):
    """It gets the rest through its own buffer, however small that is; at the end, also what looked like an answer."""
    made = []

    async def main():
        make = lambda: made.append(Buffered()) or made[-1]  # noqa: E731
        server = await aio.create_server(make, "127.0.0.1", 0, policy=ASKING)
        reader, writer = await asyncio.open_connection(*address_of(server))
        assert await asyncio.wait_for(reader.readline(), 20) == b"PING\n"
        writer.write(b"PONG\nthe rest of it")
        await until(lambda: made[0].got == b"the rest of it")
        assert await asyncio.wait_for(reader.readline(), 20) == b"PING\n"
        writer.write(b"\nPON")
        writer.close()
        await writer.wait_closed()
        await until(lambda: made[0].ended == ["eof", None])
        assert made[0].got == b"the rest of it\nPON"
        server.close()

    run(kind, main)


@EACH_LOOP
def test_another_protocol_gets_no_heartbeats_of_the_first(kind):
    """Who has changed over to another protocol speaks another language; when it is back, so are they."""
    made = []

    async def main():
        make = lambda: made.append(Buffered()) or made[-1]  # noqa: E731
        server = await aio.create_server(make, "127.0.0.1", 0, policy=HURRIED)
        reader, writer = await asyncio.open_connection(*address_of(server))
        await until(lambda: made)
        before = made[0].transport.get_protocol()
        made[0].transport.set_protocol(asyncio.Protocol())
        await asyncio.sleep(1.2)
        assert connection_of(made[0].transport).state == "open"
        made[0].transport.set_protocol(before)
        assert await asyncio.wait_for(reader.readline(), 20) == b"PING\n"
        writer.close()
        await writer.wait_closed()
        server.close()

    run(kind, main)


@EACH_LOOP
def test_after_our_own_end_of_the_stream_nothing_is_sent(kind):
    """write_eof() was called, so there is nothing to say any more; and nothing fails for it."""

    async def handle(reader, writer):
        writer.write_eof()
        await reader.read()

    async def main():
        async with Peer(NOTICE, handle) as peer:
            await asyncio.sleep(0.8)
            assert peer.lines == []

    run(kind, main)


@EACH_LOOP
def test_a_payload_that_fails_is_told_and_stops(kind):
    """It is a function of the program's; the connection goes on without heartbeats."""

    def fails():
        raise LookupError

    async def main():
        async with Peer(Policy(heartbeat=Heartbeat(fails, every=0.1))) as peer:
            await until(lambda: peer.connection._terms.heart.next_at is None)  # noqa: SLF001
            assert peer.connection.state == "open"

    run(kind, main)
    [message] = [event.message for _, event in process.running.teller.recent if event.name == "guard_failed"]
    assert "LookupError" in message
    process.end()
