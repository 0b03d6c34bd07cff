"""Connections with books of their own: ended by the same rules as all others, known by their object and no number."""

import asyncio
import contextlib
import gc
import os
import socket

import pytest

from guarded import Driven, driven
from loopback import connect, reset
from sockguard._core.books import Books
from sockguard._core.connection import Demand
from sockguard._core.policy import Keepalive, Policy
from sockguard._engine import guard, stamped
from sockguard._engine.stamped import LOOK_EVERY
from sockguard._engine.stamped_records import StampedRecord, StampedRecords
from sockguard._engine.terms import Terms, make_terms
from waiting import eventually

pytestmark = pytest.mark.usefixtures("no_kernel_books")
KINDS = pytest.mark.parametrize("kind", ["TCP", "Unix"])


@pytest.fixture
def no_kernel_books(monkeypatch):
    """Keeps the sweep of the kernel's books out, which would find the TCP connections among these, too."""
    monkeypatch.setattr(guard, "KERNEL_KEEPS_BOOKS", False)


class Owner(socket.socket):
    """A wrapper in its simplest form: notes what it does, and closes when the guard says so."""

    why: str | None = None

    def stamp(self, policy: Policy | None, now: float) -> "Owner":
        self.books = Books(now)
        self.terms = Terms(policy, self.books)
        return self

    def let_go(self, why: str) -> None:
        self.why = why
        self.close()


class Stubborn(Owner):
    """A wrapper that cannot let go now, as a thread is inside of a call."""

    def let_go(self, why: str) -> None:
        self.why = why


@contextlib.contextmanager
def guarded(d: Driven, kind: str = "Unix", cls: type[Owner] = Owner, policy: Policy | None = None):
    """Gives a connection that the guard was told of, and its peer."""
    with contextlib.ExitStack() as stack:
        if kind == "TCP":
            c = stack.enter_context(connect())
            raw, peer = c.server, c.client
        else:
            raw, peer = (stack.enter_context(sock) for sock in socket.socketpair())
        sock = stack.enter_context(cls(fileno=raw.detach())).stamp(policy, d.now)
        d.guard.adopt(sock, sock, True, terms=sock.terms)
        d.tick()
        yield sock, peer


def pass_time(d: Driven, seconds: float, step: float = 0.25) -> None:
    """Lets time pass as the guard's thread does, a tick at a time."""
    for _ in range(round(seconds / step)):
        d.tick(step)


def records_of(d: Driven) -> StampedRecords:
    """Gives what the sweep keeps."""
    return d.guard._stamped.records  # noqa: SLF001


def records(d: Driven) -> list[StampedRecord]:
    """Lists what the sweep keeps."""
    return records_of(d).all()


def is_shut(peer: socket.socket) -> bool:
    """Tells whether the peer's end has been told that nothing comes any more."""
    peer.setblocking(False)
    try:
        return peer.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


# --- Time-outs ---


@KINDS
def test_an_idle_connection_is_ended_and_its_owner_lets_go(kind):
    """Not before its time, told once, with the numbers; the peer sees an orderly end."""
    with driven(idle_timeout=10, leak_after=None) as d, guarded(d, kind) as (sock, peer):
        pass_time(d, 9)
        assert (is_shut(peer), d.closed()) == (False, [])
        pass_time(d, 2.5)
        assert eventually(lambda: is_shut(peer))
        assert d.closed() == [("idle", "shut_down")]
        assert "idle_timeout=10" in str(sock.why)
        assert (sock.fileno(), str(sock.terms.verdict.reason)) == (-1, "idle")
        d.tick(LOOK_EVERY)
        assert records(d) == []


@KINDS
@pytest.mark.parametrize("direction", ["received", "sent"])
def test_a_byte_either_way_keeps_it_alive(kind, direction):
    """What the wrapper notes is what counts."""
    with driven(idle_timeout=3, leak_after=None) as d, guarded(d, kind) as (sock, peer):
        for _ in range(10):
            pass_time(d, 2)
            if direction == "received":
                peer.sendall(b"x")
                sock.books.received(len(sock.recv(1)), d.now)
            else:
                sock.books.sent(sock.send(b"x"), d.now)
                peer.recv(1)
        assert (d.closed(), sock.why) == ([], None)
        pass_time(d, 6)
        assert d.closed() == [("idle", "shut_down")]


@KINDS
def test_a_connection_has_its_own_policy(kind):
    """That of the process is for the others."""
    own = Policy(idle_timeout=2)
    with driven(idle_timeout=60) as d, guarded(d, kind, policy=own) as (sock, _), guarded(d, kind) as (other, _):
        pass_time(d, 6)
        assert (sock.fileno(), other.why) == (-1, None)


def test_a_peer_that_takes_nothing_is_a_stall_and_one_that_reads_slowly_is_none():
    """Of a Unix socket only the memory that its peer has not freed tells; a full queue that shrinks does not stall."""
    with driven(write_stall_timeout=5, leak_after=None) as d, guarded(d) as (slow, reader), guarded(d) as (stuck, _):
        for sock in (slow, stuck):
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.books.sent(sock.send(bytes(1000)), d.now)
        for _ in range(12):
            reader.recv(1000)
            pass_time(d, 1)
        assert d.closed() == [("write_stalled", "shut_down")]
        assert (stuck.fileno(), slow.why) == (-1, None)


def test_a_peer_that_reads_what_was_sent_long_ago_is_not_idle():
    """Of a Unix socket: no call of ours returns meanwhile, but its queue shrinks, and so bytes move."""
    with driven(idle_timeout=5, leak_after=None) as d, guarded(d) as (slow, reader), guarded(d) as (stuck, _):
        for sock in (slow, stuck):
            for _ in range(20):
                sock.books.sent(sock.send(bytes(1000)), d.now)
        for _ in range(12):
            reader.recv(1000)
            pass_time(d, 1)
        assert d.closed() == [("idle", "shut_down")]
        assert (stuck.fileno(), slow.why) == (-1, None)


def test_a_client_that_never_speaks_is_ended_by_the_first_byte_timeout():
    """One that has is not."""
    with driven(first_byte_timeout=3, leak_after=None) as d, guarded(d) as (mute, _), guarded(d) as (other, peer):
        peer.sendall(b"x")
        pass_time(d, 6)
        assert (d.closed(), other.why) == ([("first_byte", "shut_down")], None)
        assert mute.fileno() == -1


def test_a_demand_of_the_program_is_met_at_the_next_tick():
    """Whenever the next look would be; taken back in time, nothing happens."""
    with driven(leak_after=None) as d, guarded(d) as (late, _), guarded(d) as (quick, _):
        for sock in (late, quick):
            sock.terms.demands.append(Demand("deadline", d.now, 0.4))
        d.tick()
        quick.terms.demands.clear()
        d.tick()
        assert (d.closed(), quick.why) == ([("deadline", "shut_down")], None)
        assert late.fileno() == -1


def test_one_that_is_to_live_long_is_not_idle():
    """As its program has said."""
    with driven(idle_timeout=3) as d, guarded(d) as (sock, _):
        sock.terms.expected = "a subscription"
        pass_time(d, 9)
        assert (d.closed(), sock.why) == ([], None)


# --- A peer that hung up ---


@KINDS
def test_a_peer_that_hung_up_is_let_go_after_the_fin_timeout(kind):
    """Told as a hang-up at once, as a leak after leak_after, and cleared when the guard ends it."""
    with driven(fin_timeout=20, leak_after=5) as d, guarded(d, kind) as (sock, peer):
        peer.close()
        pass_time(d, 2)
        assert len(d.told("peer_closed")) == 1
        assert d.told("leak_detected") == []
        pass_time(d, 5)
        (leak,) = d.told("leak_detected")
        assert leak.fields["state"] == "CLOSE_WAIT"
        assert d.closed() == []
        pass_time(d, 16)
        assert d.closed() == [("half_closed", "shut_down")]
        assert [event.fields["how"] for event in d.told("leak_cleared")] == ["ended_by_guard"]
        assert sock.fileno() == -1


@KINDS
def test_a_program_that_closes_in_time_is_never_told_of(kind):
    """The repaired program is silent."""
    with driven(fin_timeout=20, leak_after=5) as d, guarded(d, kind) as (sock, peer):
        peer.close()
        pass_time(d, 2)
        assert sock.recv(1) == b""
        sock.books.eof(d.now)
        sock.close()
        pass_time(d, 30)
        assert (d.told("leak_detected"), d.closed(), records(d)) == ([], [], [])


def dropped(d: Driven) -> socket.socket:
    """Makes a connection that the guard was told of and the program drops without a close; gives the peer."""
    ours, peer = socket.socketpair()
    sock = Owner(fileno=ours.detach()).stamp(None, d.now)
    d.guard.adopt(sock, sock, True, terms=sock.terms)
    d.tick()
    assert len(records(d)) == 1
    peer.shutdown(socket.SHUT_WR)
    pass_time(d, 4)
    return peer


def test_a_leak_is_taken_back_when_its_owner_closes_it():
    """With how it went."""
    with driven(fin_timeout=None, leak_after=2) as d, guarded(d) as (sock, peer):
        peer.close()
        pass_time(d, 4)
        assert len(d.told("leak_detected")) == 1
        sock.close()
        pass_time(d, 2)
        assert [event.fields["how"] for event in d.told("leak_cleared")] == ["closed"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.allow_socket_leaks("a connection is thrown away, as a program that leaks does", count=1)
def test_a_leak_is_taken_back_when_its_owner_is_collected():
    """The guard keeps no object alive, nor a record of one that is not."""
    with driven(fin_timeout=None, leak_after=2) as d, dropped(d) as peer:
        gc.collect()
        assert eventually(lambda: is_shut(peer))
        d.tick()
        assert (len(d.told("leak_detected")), len(d.told("leak_cleared")), records(d)) == (1, 1, [])


@KINDS
def test_what_is_unread_stays_readable_through_every_step(kind):
    """Our FIN first, a second fin_timeout to read in, then the rest; all bytes are there in the end."""
    with driven(fin_timeout=5, leak_after=None) as d, guarded(d, kind, Stubborn) as (sock, peer):
        peer.sendall(b"precious")
        peer.shutdown(socket.SHUT_WR)
        pass_time(d, 8)
        assert d.closed() == [("half_closed", "fin_sent")]
        assert eventually(lambda: is_shut(peer))
        pass_time(d, 7)
        assert d.closed() == [("half_closed", "fin_sent")]  # told once
        assert "fin_timeout=5" in str(sock.why)
        assert sock.recv(99) == b"precious"


def test_a_half_closed_connection_lives_while_it_makes_progress():
    """A peer that has sent its request and its FIN gets an answer that takes long."""
    with driven(fin_timeout=3, leak_after=2) as d, guarded(d, "TCP") as (sock, peer):
        peer.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        sock.books.eof(d.now)
        for _ in range(20):
            pass_time(d, 1)
            sock.books.sent(sock.send(b"x"), d.now)
            assert eventually(lambda: peer.recv(1)) == b"x"
        assert (d.closed(), d.told("leak_detected"), sock.why) == ([], [], None)


@pytest.mark.parametrize("has_read", [False, True])
def test_close_at_eof_ends_what_has_read_the_end_and_leaves_what_has_not(has_read):
    """The wrapper notes when the end is read, so there is nothing to guess."""
    with driven(half_close="close", fin_timeout=3600, leak_after=None) as d, guarded(d) as (sock, peer):
        peer.shutdown(socket.SHUT_WR)
        if has_read:
            assert sock.recv(1) == b""
            sock.books.eof(d.now)
        pass_time(d, 3)
        assert (sock.fileno() == -1) == has_read


@KINDS
def test_a_reset_connection_is_let_go_of(kind):
    """There is nothing left to shut down, but a descriptor that its owner can release."""
    with driven(fin_timeout=4, leak_after=None) as d, guarded(d, kind) as (sock, peer):
        sock.send(b"unread")
        reset(peer) if kind == "TCP" else peer.close()
        pass_time(d, 8)
        assert d.closed() == [("dead", "shut_down")]
        assert sock.fileno() == -1


# --- Identity ---


def test_the_number_of_a_closed_connection_may_be_anybodys():
    """Another socket that got it is not looked at, let alone shut down."""
    with driven(idle_timeout=3, leak_after=None) as d, guarded(d) as (sock, _):
        fd = sock.fileno()
        sock.close()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert fd in (ours.fileno(), theirs.fileno())
            pass_time(d, 9)
            assert (d.closed(), records(d)) == ([], [])
            assert not is_shut(theirs)
            assert not is_shut(ours)


def test_an_object_that_was_closed_while_it_was_looked_at_is_not_judged(monkeypatch):
    """What was read may have been of whoever has the number by then."""
    with driven(idle_timeout=3, leak_after=None) as d, guarded(d, "TCP") as (sock, _):
        read = stamped.read_stamps

        def close_in_between(*args, **more):
            activity = read(*args, **more)
            sock.close()
            return activity

        monkeypatch.setattr(stamped, "read_stamps", close_in_between)
        d.tick(5)
        assert (d.closed(), records(d)) == ([], [])


def test_an_owner_that_cannot_let_go_keeps_its_descriptor():
    """The connection is over for both ends; the number is closed by nobody but its owner."""
    with driven(idle_timeout=2, leak_after=None) as d, guarded(d, cls=Stubborn) as (sock, peer):
        pass_time(d, 6)
        assert sock.why is not None
        assert sock.fileno() >= 0
        assert is_shut(peer)
        assert sock.recv(1) == b""
        pass_time(d, 10)
        assert (len(d.closed()), d.told("peer_closed"), d.told("leak_detected")) == (1, [], [])


class Keeper:
    """Owns a socket and is none, as what keeps one of trio."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock, self.why = sock, None
        self.terms = Terms(None, Books(now))

    def let_go(self, why: str) -> None:
        self.why = why


def test_an_owner_need_not_be_a_socket():
    """The socket that was told of with it is shut down, and it lets go."""
    with driven(idle_timeout=2, leak_after=None) as d:
        ours, peer = socket.socketpair()
        with ours, peer:
            keeper = Keeper(ours, d.now)
            d.guard.adopt(keeper, ours, True, terms=keeper.terms)
            pass_time(d, 5)
            assert is_shut(peer)
            assert "idle_timeout=2" in str(keeper.why)


def test_observing_touches_nothing():
    """It says what it would have done, once."""
    with driven(idle_timeout=2, leak_after=None, mode="observe") as d, guarded(d) as (sock, peer):
        pass_time(d, 10)
        (event,) = d.told("connection_closed")
        assert (event.fields["reason"], event.fields["mode"]) == ("idle", "observe")
        assert (is_shut(peer), sock.why, sock.terms.verdict) == (False, None, None)
        assert sock.fileno() >= 0


def test_announced_again_with_other_terms_a_connection_gets_these():
    """And with the same ones nothing changes."""
    with driven(idle_timeout=3600, leak_after=None) as d, guarded(d) as (sock, _):
        (before,) = records(d)
        d.guard.adopt(sock, sock, True, terms=sock.terms)
        d.tick()
        assert records(d) == [before]
        sock.stamp(Policy(idle_timeout=2), d.now)
        d.guard.adopt(sock, sock, True, terms=sock.terms)
        d.tick()
        assert len(records(d)) == 1
        pass_time(d, 5)
        assert sock.fileno() == -1


def test_a_policy_that_changes_holds_for_those_that_are_there():
    """The guard goes on with the same connections."""
    with driven(idle_timeout=3600, leak_after=None) as d, guarded(d) as (sock, _):
        d.guard.change_policy(Policy(idle_timeout=2, leak_after=None))
        pass_time(d, 5)
        assert sock.fileno() == -1


# --- What it costs, and what goes wrong ---


def test_a_connection_is_looked_at_about_once_a_second_whatever_it_does(monkeypatch):
    """And of many each the more rarely, so that looking takes a bounded share of the time."""
    looks = []
    monkeypatch.setattr(stamped, "read_stamps", _counting(stamped.read_stamps, looks))
    with driven() as d, guarded(d), guarded(d):
        looks.clear()
        pass_time(d, 20)
        assert 2 * 16 <= len(looks) <= 2 * 20
        monkeypatch.setattr(stamped, "MAX_LOOKS", 0.5)
        looks.clear()
        pass_time(d, 20)
        assert 8 <= len(looks) <= 12


def _counting(function, calls):
    def count(*args, **more):
        calls.append(args)
        return function(*args, **more)

    return count


def test_one_that_fails_is_told_and_does_not_keep_the_others_from_being_looked_at(monkeypatch):
    """Whatever goes wrong with one."""
    with driven(idle_timeout=3, leak_after=None) as d, guarded(d) as (bad, _), guarded(d) as (good, _):
        read = stamped.read_stamps

        def fail_for_one(sock, *args, **more):
            if sock is bad:
                raise RuntimeError("broken")
            return read(sock, *args, **more)

        monkeypatch.setattr(stamped, "read_stamps", fail_for_one)
        for _ in range(30):
            d.now += 0.25
            d.guard.tick(d.now)
        assert (good.fileno(), bad.why) == (-1, None)
        assert "broken" in d.told("guard_failed")[0].fields["error"]


def test_a_connection_that_is_not_made_yet_is_not_judged():
    """A connect() under way is neither idle nor over; when it is through, time counts from its opening."""
    with driven(idle_timeout=1, fin_timeout=1, leak_after=None) as d, socket.socket() as listener, Owner() as sock:
        listener.bind(("127.0.0.1", 0))
        sock.stamp(None, d.now)
        d.guard.adopt(sock, sock, False, terms=sock.terms)
        pass_time(d, 5)
        assert (d.closed(), sock.why) == ([], None)
        listener.listen()
        sock.connect(listener.getsockname())
        pass_time(d, 5)
        assert d.closed() == [("idle", "shut_down")]


def test_keepalive_is_turned_on_where_the_kernel_keeps_no_books_either():
    """With what the policy says; nothing is touched in observe mode."""
    with driven(keepalive=Keepalive(idle=77)) as d, guarded(d, "TCP") as (sock, _):
        pass_time(d, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    with driven(mode="observe") as d, guarded(d, "TCP") as (sock, _):
        pass_time(d, 1)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_events_name_the_ends_of_a_unix_socket_by_path(tmp_path):
    """Our path where we listen; a client has none."""
    path = str(tmp_path / "socket")
    with driven(idle_timeout=2, leak_after=None) as d, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            with Owner(fileno=listener.accept()[0].detach()).stamp(None, d.now) as sock:
                d.guard.adopt(sock, sock, True, terms=sock.terms)
                pass_time(d, 5)
    (event,) = d.told("connection_closed")
    assert (event.fields["local"], event.fields["remote"]) == (path, None)


# --- Fork ---


def in_child(run) -> str:
    """Runs a function in a forked child, and gives what it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(run()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # 3.12: fork in a process that may have threads
def test_after_a_fork_nobody_ends_a_connection_that_the_other_serves():
    """Neither the child what its parent serves, nor the parent what the child does; who moves bytes guards it again."""
    with driven(idle_timeout=2, leak_after=None) as d, guarded(d) as (sock, peer):

        def idle_in_child() -> list[object]:
            records_of(d).after_fork_in_child(d.now)
            pass_time(d, 10)
            closed = list(d.closed())
            sock.books.sent(sock.send(b"x"), d.now)
            pass_time(d, 10)
            return [closed, d.closed(), sock.fileno()]

        records_of(d).after_fork(d.now)
        assert in_child(idle_in_child) == "[[], [('idle', 'shut_down')], -1]"
        peer.close()
        assert (d.closed(), sock.why) == ([], None)
    with driven(idle_timeout=2, leak_after=None) as d, guarded(d) as (sock, _):
        records_of(d).after_fork(d.now)
        pass_time(d, 10)
        assert (d.closed(), sock.why) == ([], None)
        d.guard.adopt(sock, sock, True, terms=sock.terms)  # announced anew
        pass_time(d, 5)
        assert sock.fileno() == -1


# --- Transports ---


async def stamped_transport(d: Driven, sock: socket.socket, books: Books) -> asyncio.Transport:
    """Makes a transport that the guard was told of."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
    d.guard.adopt_transport(transport, loop, True, terms=Terms(None, books))
    d.tick()
    return transport


async def wait_for(predicate) -> None:
    """Waits on the loop."""
    async with asyncio.timeout(5):
        while not predicate():  # noqa: ASYNC110 - of things that tell of nothing
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_a_transport_is_asked_to_abort():
    """On its loop; the descriptor is released by its owner."""
    with driven(idle_timeout=3, leak_after=None) as d:
        ours, peer = socket.socketpair()
        with peer:
            transport = await stamped_transport(d, ours, Books(d.now))
            pass_time(d, 6)
            assert d.closed() == [("idle", "owner_asked")]
            await wait_for(lambda: ours.fileno() == -1)
            assert transport.is_closing()
            d.tick(LOOK_EVERY)
            assert records(d) == []


@pytest.mark.asyncio
async def test_what_a_transport_holds_back_is_not_sent():
    """So its program cannot keep it alive by writing to a peer that takes nothing; one that takes bytes does."""
    with driven(idle_timeout=5, leak_after=None) as d:
        ours, peer = socket.socketpair()
        with peer:
            books = Books(d.now)
            transport = await stamped_transport(d, ours, books)
            transport.write(bytes(10_000_000))
            books.sent(10_000_000, d.now)
            peer.setblocking(False)
            for _ in range(10):
                with contextlib.suppress(BlockingIOError):
                    peer.recv(1 << 20)
                before = transport.get_write_buffer_size()
                await wait_for(lambda before=before: transport.get_write_buffer_size() < before)
                pass_time(d, 2)
            assert d.closed() == []
            for _ in range(8):
                transport.write(b"more")
                books.sent(4, d.now)
                await asyncio.sleep(0)
                pass_time(d, 1)
            assert d.closed() == [("idle", "fin_sent")] or d.closed() == [("idle", "owner_asked")]
            transport.abort()
            await wait_for(lambda: ours.fileno() == -1)


@pytest.mark.asyncio
async def test_a_blocked_loop_is_shut_down_from_outside():
    """A transport that does not come round to abort is ended by its socket."""
    with driven(idle_timeout=3, leak_after=None) as d:
        ours, peer = socket.socketpair()
        with peer:
            await stamped_transport(d, ours, Books(d.now))
            pass_time(d, 8)  # the loop runs no callback in here
            assert is_shut(peer)
            await wait_for(lambda: ours.fileno() == -1)


def test_a_tick_in_the_programs_thread_looks_at_so_many(monkeypatch):
    """And at the others at the next tick, which is asked for; each has its turn before any has a second one."""
    looked = []
    monkeypatch.setattr(stamped.StampedSweep, "_look", lambda _, record: looked.append(record.fd))
    with driven() as d, contextlib.ExitStack() as stack:
        owners = []
        for sock in (one for _ in range(4) for one in socket.socketpair()):
            owner = stack.enter_context(Owner(fileno=sock.detach())).stamp(None, d.now)
            d.guard.adopt(owner, owner, True, terms=owner.terms)
            owners.append(owner)
        d.guard.tick(d.now, 3)
        assert [d.guard.tick(d.now + 1 + n * 0.01, 3) for n in range(3)] == [True, True, False]
        assert sorted(looked) == sorted(owner.fileno() for owner in owners)


def test_whose_turn_has_not_come_is_not_forgotten_with_a_new_policy():
    """What was due and waits for its turn goes over to the sweep that follows."""
    with contextlib.ExitStack() as stack, driven(idle_timeout=5, leak_after=None) as d:
        pairs = [socket.socketpair() for _ in range(4)]
        for ours, peer in pairs:
            stack.enter_context(ours)
            stack.enter_context(peer)
            d.guard.adopt(ours, ours, True, terms=make_terms(None, ours, d.guard.policy))
        for n in (1, 2):
            d.guard.tick(d.now + n * 0.25, 1)
        d.guard.change_policy(Policy(idle_timeout=5, leak_after=None))
        for _ in range(80):
            d.tick(0.25)
        for _, peer in pairs:
            peer.settimeout(20)
            assert peer.recv(1) == b""
