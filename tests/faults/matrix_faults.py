"""The faults of the matrix: each makes its trouble with a scene's clients.

`scene.suffer(client, ...)` names those whose server end is watched; `scene.must_arrive()` is
around what a client has a right to. Spans are in seconds.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable

from faults.matrix_scene import Client, Lost, Scene, sockets_of, watch
from netstat import CLOSE_WAIT, ESTABLISHED, rows, wait_for

__all__ = [
    "FIN_TIMEOUT", "OVER", "PART_OF_A_RECORD", "blocked_loop", "dead_reader", "drip", "half_a_handshake",
    "half_close_and", "half_close_then_silence", "hang_up", "hidden_by_keepalive", "late_answer", "mute",
    "no_descriptors", "read_late", "reset_while_paused", "reused_numbers", "slow_reader", "stuck_acceptor",
    "tls_ends", "vanish",
]  # fmt: skip

FIN_TIMEOUT = 2.0
"""What most rows set."""
OVER = FIN_TIMEOUT + 3.0
"""When it must be over: the guard has its tick, and several cells run at once on this machine."""
PART_OF_A_RECORD = b"\x17\x03\x03\x40\x00abc"
"""The header of a TLS record of 16 kB, and three bytes of it."""


def sick(scene: Scene, words: str, n: int = 2) -> list[Client]:
    clients = [scene.client(words) for _ in range(n)]
    scene.suffer(*clients)
    return clients


def hang_up(words: str, sent: int = 0) -> Callable[[Scene], None]:
    """Makes the fault of peers that send something more, perhaps, and close."""

    def fault(scene: Scene) -> None:
        for client in sick(scene, words):
            client.sock.sendall(bytes(sent))
            client.close()

    return fault


def read_late(scene: Scene) -> None:
    clients = sick(scene, "late 3", 1)
    clients[0].sock.sendall(bytes(20_000))
    clients[0].close()
    with scene.must_arrive():
        if (n_read := scene.server.told("read")) != "20000":
            raise Lost(f"the server got {n_read} of 20000 bytes")


def reset_while_paused(scene: Scene) -> None:
    clients = sick(scene, "pause")
    for client in clients:
        client.sock.sendall(bytes(20_000))
    time.sleep(0.3)  # the program takes what makes it pause
    for client in clients:
        client.reset()


def half_close_and(words: str, reads: Callable[[Client], None]) -> Callable[[Scene], None]:
    """Makes the fault, that is none, of a peer that says no more and waits for the answer."""

    def fault(scene: Scene) -> None:
        client = scene.client(words)
        client.half_close()
        with scene.must_arrive():
            reads(client)

    return fault


def late_answer(client: Client) -> None:
    client.expect(b"late answer")
    client.expect_end()


def half_close_then_silence(scene: Scene) -> None:
    clients = sick(scene, "ignore")
    for client in clients:
        client.half_close()
    begun = time.monotonic()
    watch(scene, begun + OVER + 1)
    for client in clients:
        client.sock.settimeout(0.5)
        with scene.must_arrive():
            client.expect_end()


def drop(*clients: Client) -> None:
    """Lets no packet of these connections through any more, either way."""
    rules = [f"add rule ip lost in tcp {end} {client.port} drop" for client in clients for end in ("sport", "dport")]
    chain = "add chain ip lost in { type filter hook input priority 0; }"
    subprocess.run(["nft", "-f", "-"], input="\n".join(["add table ip lost", chain, *rules]), text=True, check=True)


def vanish(words: str) -> Callable[[Scene], None]:
    """Makes the fault of a peer whose cable is cut."""

    def fault(scene: Scene) -> None:
        clients = [scene.client(words) for _ in range(2)]
        drop(*clients)
        scene.suffer(*clients)

    return fault


def slow_reader(scene: Scene) -> None:
    client = scene.client("flood 8000", receive_buffer=4096)
    time.sleep(2 * FIN_TIMEOUT + 1)
    with scene.must_arrive():
        client.expect_chunks(8000)


def dead_reader(scene: Scene) -> None:
    clients = [scene.client("flood 8000", receive_buffer=4096) for _ in range(2)]
    scene.suffer(*clients)


def mute(scene: Scene) -> None:
    scene.suffer(*(scene.client() for _ in range(2)))


def drip(scene: Scene) -> None:
    clients = [scene.client() for _ in range(2)]
    scene.suffer(*clients)

    def send() -> None:
        with contextlib.suppress(OSError):
            for _ in range(60):
                for client in clients:
                    client.sock.sendall(b"x")
                time.sleep(0.25)

    threading.Thread(target=send, daemon=True).start()


def blocked_loop(scene: Scene) -> None:
    clients = [scene.client("echo"), scene.client("echo"), scene.client("block 7")]
    scene.suffer(*clients)
    for client in clients:
        client.close()


def reused_numbers(scene: Scene) -> None:
    """The watched ones are closed by the server shortly before their time; new ones take over their numbers."""
    old = [scene.client(f"hold {FIN_TIMEOUT - 0.4}") for _ in range(4)]
    scene.suffer(*old)
    before = numbers(scene)
    for client in old:
        client.close()
    watch(scene, time.monotonic() + OVER)
    new = [scene.client("echo") for _ in range(3)]
    streamed = scene.client("stream 60 0.05")
    streamed.half_close()
    scene.notes.append(f"{len(before & numbers(scene))} numbers reused")
    with scene.must_arrive():
        streamed.expect_chunks(60)
    time.sleep(FIN_TIMEOUT + 0.5 - 3 * 0.05)
    for client in new:
        with scene.must_arrive():
            client.sock.sendall(b"still there")
            client.expect(b"still there")


def numbers(scene: Scene) -> set[int]:
    """Gives the descriptors of established and half-closed connections in the server's main process."""
    live = {row.inode for row in rows(scene.server.port) if row.state in {ESTABLISHED, CLOSE_WAIT}}
    return {fd for fd, inode in sockets_of(scene.server.pid).items() if inode in live}


def stuck_acceptor(scene: Scene) -> None:
    os.kill(scene.server.pid, signal.SIGUSR1)
    time.sleep(0.3)
    queued = []
    for number in range(9):  # the first of them may wake an acceptor that sleeps inside accept()
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", scene.server.port))
        queued.append(sock)
        time.sleep(0.05 if number == 0 else 0)
    time.sleep(0.3)
    for sock in queued:
        with contextlib.suppress(OSError):
            sock.sendall(b"echo\n")
        sock.close()
    waiting = [row for row in rows(scene.server.port) if row.state == CLOSE_WAIT and not row.inode]
    time.sleep(4.5)
    still = [row for row in rows(scene.server.port) if row.state == CLOSE_WAIT and not row.inode]
    scene.notes.append(f"{len(still)} of {len(waiting)} still in the queue")
    if len(still) < len(waiting):
        scene.lost.append("connections left the queue before they were accepted")
    wait_for(scene.server.port, count=0, state=CLOSE_WAIT)


def scene_socket(scene: Scene, words: str) -> socket.socket:
    """Connects where perhaps nobody accepts; reads an answer if there is one, lest close() becomes a reset."""
    sock = socket.create_connection(("127.0.0.1", scene.server.port), timeout=0.2)
    with contextlib.suppress(OSError):
        if words:
            sock.sendall(words.encode())
            sock.recv(100)
    return sock


def no_descriptors(words: str) -> Callable[[Scene], None]:
    """Makes the fault of so many clients that no descriptor is left."""

    def fault(scene: Scene) -> None:
        used = len(os.listdir(f"/proc/{scene.server.pid}/fd"))
        limit = max(map(int, os.listdir(f"/proc/{scene.server.pid}/fd"))) + 9
        resource.prlimit(scene.server.pid, resource.RLIMIT_NOFILE, (limit, limit))
        clients = [scene_socket(scene, words) for _ in range(10)]
        scene.notes.append(f"{used} descriptors used of {limit}")
        if words:
            for sock in clients:
                sock.close()
        begun = time.monotonic()
        while time.monotonic() < begun + 2 * OVER and (complaint := scene.fresh()):
            time.sleep(0.1)
        scene.notes.append(f"served after {time.monotonic() - begun:.1f} s")
        if complaint:
            scene.lost.append("no new client is served")

    return fault


def tls_ends(last_words: bytes) -> Callable[[Scene], None]:
    """Makes the fault of peers whose TLS ends without close_notify: one is ignored, one is not read."""

    def fault(scene: Scene) -> None:
        clients = [scene.client("ignore"), scene.client("pause")]
        clients[1].sock.sendall(bytes(20_000))
        scene.suffer(*clients)
        for client in clients:
            raw = client.raw()
            raw.sendall(last_words)
            raw.close()

    return fault


def half_a_handshake(scene: Scene) -> None:
    clients = [scene.client(tls=False) for _ in range(2)]
    scene.suffer(*clients)
    clients[0].sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40))


def hidden_by_keepalive(scene: Scene) -> None:
    for client in sick(scene, "keepalive"):
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
        client.close()
